"""One task per file: observation, reward, reset and success."""

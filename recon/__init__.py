"""From sensors to twin: episodes, tracks, identification. Imports physgym only."""

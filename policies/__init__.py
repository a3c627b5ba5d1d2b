"""From twin to behaviour: planning, learning, safety. Imports physgym only."""

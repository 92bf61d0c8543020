"""Interactive steering of a live session: commands, plain words and pictures."""

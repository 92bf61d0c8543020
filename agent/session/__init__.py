"""The session folder: lock, limits, checkpoints, control files, undo, forks."""

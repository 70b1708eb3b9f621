"""One training: set-up, loop, checkpointing, reporting and the evaluation it ends with."""

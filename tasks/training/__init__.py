"""What surrounds every training: checkpoints, signals, randomness, guards, the run folder, what it tells."""

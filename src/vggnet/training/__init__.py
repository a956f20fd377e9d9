"""Training: configuration and presets, the loop, checkpoints, the run folder."""

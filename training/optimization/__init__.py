"""Plan of a training run by epoch and step, and restoring the optimizer state."""

"""A training run around the engine: network, checkpoints, reports, non-finite steps."""

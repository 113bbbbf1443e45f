"""A training run, which calls the engine: network, checkpoints, reports, non-finite steps."""

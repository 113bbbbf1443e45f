"""The flags of a run: definition, checks, what checkpoints decide, `config.txt`."""

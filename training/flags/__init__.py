"""The flags of a run: definition, checks, values from checkpoints, `config.txt`."""

"""State dicts with the key names of other projects."""

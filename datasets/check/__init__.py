"""The dataset check, ``python -m datasets.check``."""

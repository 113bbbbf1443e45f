"""The data set checker, ``python -m datasets.check``."""

"""Detect objects in images, folders and videos, and write the results: see ``predict.py``."""

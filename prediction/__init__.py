"""Prediction on images, folders and videos, for ``predict.py`` and the Python API."""

"""Checkpoints, downloads and image files."""

"""Annotation files as arrays: compact, shared between processes, read once."""

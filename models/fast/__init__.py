"""Optimizations for speed or memory; each module states when it applies."""

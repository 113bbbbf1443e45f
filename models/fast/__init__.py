"""Optimizations of speed or memory; each module says when it is used."""

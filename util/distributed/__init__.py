"""Distributed training: launch, process group, collectives and connection errors."""

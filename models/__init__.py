"""The DETR model: backbone, transformer, heads, matching, loss and post-processing."""

from .detr import build as build_model

__all__ = ["build_model"]

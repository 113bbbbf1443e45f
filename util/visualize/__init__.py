"""Drawings of boxes, masks and panoptic maps."""

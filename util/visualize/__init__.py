"""Pictures of boxes, masks and panoptic maps."""

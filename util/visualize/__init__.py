"""Draw boxes, masks and panoptic maps on images."""

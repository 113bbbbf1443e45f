"""Example scripts: draw detections, attention maps and panoptic segmentations."""

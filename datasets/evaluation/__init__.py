"""Scoring detections and panoptic maps, and explaining the scores."""

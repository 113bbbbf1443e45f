"""Output files of a prediction: annotated images, JSON, CSV, panoptic maps and attention maps."""

"""What is written: pictures, JSON, tables, panoptic maps and attention maps."""

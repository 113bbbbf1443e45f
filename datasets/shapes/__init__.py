"""The embedded data set: drawn shapes in COCO's format, ``--dataset_file shapes``."""

"""The synthetic shapes dataset in COCO format (``--dataset_file shapes``)."""

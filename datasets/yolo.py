"""YOLO data, ``--dataset_file yolo``."""

from functools import partial

from datasets.own_data import build_as

build = partial(build_as, "yolo")

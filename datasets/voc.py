"""Pascal VOC data, ``--dataset_file voc``."""

from functools import partial

from datasets.own_data import build_as

build = partial(build_as, "voc")

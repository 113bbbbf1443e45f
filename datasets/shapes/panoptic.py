"""The embedded data set with its panoptic labels, ``--dataset_file shapes_panoptic``.

It is the directory of ``--dataset_file shapes``, read as COCO's panoptic data is.
"""

from typing import Any

from pycocotools.coco import COCO

from datasets import coco_panoptic
from datasets.shapes.directory import build_coco_args


def build(image_set: str, args: Any) -> coco_panoptic.CocoPanoptic:
    """As `datasets.shapes.build`, but things and stuff; ``coco_panoptic_path`` is not asked for."""
    return coco_panoptic.build(image_set, build_coco_args(args))


def build_instances(args: Any) -> COCO:
    """The instance annotations of the validation images."""
    return coco_panoptic.build_instances(build_coco_args(args))

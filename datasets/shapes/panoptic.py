"""The synthetic shapes dataset with panoptic labels (``--dataset_file shapes_panoptic``)."""

from typing import Any

from pycocotools.coco import COCO

from datasets import coco_panoptic
from datasets.shapes.directory import build_coco_args


def build(image_set: str, args: Any) -> coco_panoptic.CocoPanoptic:
    """Build a split as `CocoPanoptic`; for the arguments see `datasets.shapes.directory.build`."""
    return coco_panoptic.build(image_set, build_coco_args(args))


def build_instances(args: Any) -> COCO:
    """Load the instance annotations of the validation images."""
    return coco_panoptic.build_instances(build_coco_args(args))

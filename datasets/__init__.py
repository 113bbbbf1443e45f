"""Data sets by name."""

import importlib
from typing import Any

import torchvision
from torch.utils.data import Dataset, Subset

from util.errors import UserError

# Where the builder of each --dataset_file is; imported when asked for, so that one need not have
# what another needs.
_BUILDERS = {"coco": "datasets.coco", "shapes": "datasets.shapes"}


def build_dataset(image_set: str, args: Any) -> Dataset:
    """The dataset that the flags describe.

    Args:
        image_set: "train" or "val".
        args: ``dataset_file`` chooses the kind; the rest is for its builder.

    Raises:
        ValueError: there is no such ``dataset_file``; a UserError, as is any fault in the data.
    """
    if args.dataset_file not in _BUILDERS:
        choices = ", ".join(_BUILDERS)
        raise UserError(f"--dataset_file {args.dataset_file} is unknown; choose one of {choices}")
    return importlib.import_module(_BUILDERS[args.dataset_file]).build(image_set, args)


def get_coco_api_from_dataset(dataset: Any) -> Any:
    """The pycocotools index behind a dataset, through any nesting of `Subset`; None without one."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset.coco if isinstance(dataset, torchvision.datasets.CocoDetection) else None

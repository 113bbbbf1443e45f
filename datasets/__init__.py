"""Data sets by name."""

import importlib
from typing import TYPE_CHECKING, Any

from util.errors import UserError
from util.options import option

if TYPE_CHECKING:  # these imports take seconds, and a command that starts need not wait for them
    from pycocotools.coco import COCO
    from torch.utils.data import Dataset

# Where the builder of each --dataset_file is; imported when asked for, so that one need not have
# what another needs.
_BUILDERS = {
    "coco": "datasets.coco",
    "coco_panoptic": "datasets.coco_panoptic",
    "shapes": "datasets.shapes.directory",
    "shapes_panoptic": "datasets.shapes.panoptic",
}


def build_dataset(image_set: str, args: Any) -> "Dataset":
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
    dataset = importlib.import_module(_BUILDERS[args.dataset_file]).build(image_set, args)
    _fill_in_classes(dataset, args.dataset_file)
    return dataset


def _fill_in_classes(dataset: Any, dataset_file: str) -> None:
    """Set the attributes that main.py reads, from the COCO index, where a dataset lacks them."""
    coco_api = get_coco_api_from_dataset(dataset)
    if coco_api is None:
        return
    from datasets.annotations.coco_file import category_names, largest_category_id

    names = category_names(coco_api.cats.values())
    attributes = {
        "ids": sorted(coco_api.imgs),
        "categories": names,
        "largest_category_id": largest_category_id(names),
        "ann_file": f"--dataset_file {dataset_file}",
    }
    for name, value in attributes.items():
        if not hasattr(dataset, name):
            setattr(dataset, name, value)


def build_scales(args: Any) -> list[int] | None:
    """Short sides of training images in pixels, in words of ``--scales``; None: the published ones.

    Drawn images have scales of their own, which a checkpoint keeps.
    """
    if args.dataset_file in ("shapes", "shapes_panoptic"):
        return importlib.import_module("datasets.shapes.directory").build_scales(args)
    return option(args, "scales")


def get_coco_api_from_dataset(dataset: Any) -> Any:
    """The pycocotools index behind a dataset, through any nesting of `Subset`; None without one."""
    from pycocotools.coco import COCO
    from torch.utils.data import Subset

    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    coco_api = getattr(dataset, "coco", None)
    return coco_api if isinstance(coco_api, COCO) else None


def build_ground_truth(dataset: Any, args: Any) -> "COCO":
    """The pycocotools index to score boxes and masks against.

    Args:
        dataset: the validation set that the flags describe.
        args: the flags; for panoptic data they say where the instance annotations are.

    Raises:
        UserError: there are no instance annotations, or not of all images.
    """
    coco_api = get_coco_api_from_dataset(dataset)
    if coco_api is not None:
        return coco_api
    module = importlib.import_module(_BUILDERS[args.dataset_file])
    if not hasattr(module, "build_instances"):
        raise UserError(
            f"--dataset_file {args.dataset_file}: the {type(dataset).__name__} cannot be scored; "
            f"give it an attribute `coco`, the pycocotools COCO index, in {module.__name__}"
        )
    coco_api = module.build_instances(args)
    missing = [image_id for image_id in dataset.ids if image_id not in coco_api.imgs]
    if missing:
        raise UserError(
            f"the instance annotations lack {len(missing)} images of {dataset.ann_file}, first of "
            f"all image id {missing[0]}; name the file that belongs to them with --val_ann"
        )
    return coco_api

"""Data sets by name."""

import importlib
from typing import TYPE_CHECKING, Any

from util.errors import UserError

if TYPE_CHECKING:  # these imports take seconds, and a command that starts need not wait for them
    from pycocotools.coco import COCO
    from torch.utils.data import Dataset

# Where the builder of each --dataset_file is; imported when asked for, so that one need not have
# what another needs.
_BUILDERS = {
    "coco": "datasets.coco",
    "coco_panoptic": "datasets.coco_panoptic",
    "shapes": "datasets.shapes",
    "shapes_panoptic": "datasets.shapes_panoptic",
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
    return importlib.import_module(_BUILDERS[args.dataset_file]).build(image_set, args)


def get_coco_api_from_dataset(dataset: Any) -> Any:
    """The pycocotools index behind a dataset, through any nesting of `Subset`; None without one."""
    import torchvision
    from torch.utils.data import Subset

    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset.coco if isinstance(dataset, torchvision.datasets.CocoDetection) else None


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
    coco_api = importlib.import_module(_BUILDERS[args.dataset_file]).build_instances(args)
    missing = [image_id for image_id in dataset.ids if image_id not in coco_api.imgs]
    if missing:
        raise UserError(
            f"the instance annotations lack {len(missing)} images of {dataset.ann_file}, first of "
            f"all image id {missing[0]}; name the file that belongs to them with --val_ann"
        )
    return coco_api

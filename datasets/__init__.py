"""Build the dataset selected by ``--data``, ``--dataset_file`` or a path flag."""

import importlib
from typing import TYPE_CHECKING, Any

from util.errors import UserError
from util.options import option

if TYPE_CHECKING:  # these imports take seconds
    from collections.abc import Mapping

    from pycocotools.coco import COCO
    from torch.utils.data import Dataset

    from datasets.formats.held_out import ImageSplit

_RECOGNIZED = "data"
# Module of each --dataset_file, imported on use.
_BUILDERS = {
    "coco": "datasets.coco",
    "coco_panoptic": "datasets.coco_panoptic",
    "voc": "datasets.own_data",
    "yolo": "datasets.own_data",
    "shapes": "datasets.shapes.directory",
    "shapes_panoptic": "datasets.shapes.panoptic",
    _RECOGNIZED: "datasets.own_data",
}
KINDS = tuple(kind for kind in _BUILDERS if kind != _RECOGNIZED)  # values of --dataset_file

# Kinds of data that have class names only; category ids are assigned when the data is read.
_NAMES_ONLY = (_RECOGNIZED, "voc")
# Kinds of data from which validation images are held out if the data has no split.
_MAY_LACK_SPLIT = (_RECOGNIZED, "voc", "yolo")
# Attributes of a dataset that training needs.
_ATTRIBUTES = ("ids", "categories", "text_ids", "ann_file")


def build_dataset(
    image_set: str,
    args: Any,
    known_classes: "Mapping[int, str] | None" = None,
    earlier_split: "ImageSplit | None" = None,
) -> "Dataset":
    """Build the dataset of a split.

    Args:
        image_set: "train" or "val".
        args: ``data``, ``voc_path``, ``yolo_path`` or else ``dataset_file`` selects the builder,
            which reads the other flags.
        known_classes: class names by category id, usually from a checkpoint; formats that have
            only names reuse these ids.
        earlier_split: training and validation images of a checkpoint; reused if the data itself
            has no split.

    Raises:
        UserError: ``dataset_file`` is unknown, or the data is invalid.
    """
    kind = build_data_kind(args)
    if kind not in _BUILDERS:
        raise UserError(
            f"--dataset_file {args.dataset_file} is unknown; choose one of {', '.join(KINDS)}"
        )
    build = importlib.import_module(_BUILDERS[kind]).build
    options: dict[str, Any] = {}
    if known_classes and kind in _NAMES_ONLY:
        options["known_ids"] = {name: number for number, name in known_classes.items()}
    if earlier_split and kind in _MAY_LACK_SPLIT:
        options["earlier"] = earlier_split
    dataset: Dataset = build(image_set, args, **options)
    _fill_in_attributes(dataset, args.dataset_file)
    return dataset


def build_data_kind(args: Any) -> str:
    """Kind of the data: a value of ``--dataset_file``, or ``data`` (format detected).

    Args:
        args: a path of one kind of data selects it; else ``dataset_file`` does.
    """
    if option(args, "data"):
        return _RECOGNIZED
    paths = {"voc": "voc_path", "yolo": "yolo_path"}
    given = [kind for kind, name in paths.items() if option(args, name)]
    return given[0] if given else args.dataset_file


def _fill_in_attributes(dataset: Any, dataset_file: str) -> None:
    """Set attributes that the dataset lacks and training needs, from its COCO index."""
    from datasets.annotations.coco_file import category_names, text_ids

    if all(hasattr(dataset, name) for name in _ATTRIBUTES):
        return
    coco_api = get_coco_api_from_dataset(dataset)
    if coco_api is None:
        return
    values = (
        sorted(coco_api.imgs),
        category_names(coco_api.cats.values()),
        text_ids(coco_api.cats.values()),
        f"--dataset_file {dataset_file}",
    )
    for name, value in zip(_ATTRIBUTES, values, strict=True):
        if not hasattr(dataset, name):
            setattr(dataset, name, value)


def build_scales(args: Any) -> list[int] | None:
    """Short sides of training images in pixels; None: the published scales.

    The synthetic shapes datasets have their own default scales.
    """
    if build_data_kind(args) in ("shapes", "shapes_panoptic"):
        return importlib.import_module("datasets.shapes.directory").build_scales(args)
    return option(args, "scales")


def get_coco_api_from_dataset(dataset: Any) -> Any:
    """Return the pycocotools index of a dataset or of a (nested) `Subset`; None without one."""
    from pycocotools.coco import COCO

    coco_api = getattr(_without_subsets(dataset), "coco", None)
    return coco_api if isinstance(coco_api, COCO) else None


def _without_subsets(dataset: Any) -> Any:
    """Return the dataset of a (nested) `Subset`."""
    from torch.utils.data import Subset

    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def annotated_category_ids(dataset: Any) -> set[int]:
    """Category ids of the annotations of a dataset; empty if they are not known."""
    dataset = _without_subsets(dataset)
    if hasattr(dataset, "annotated_category_ids"):
        return dataset.annotated_category_ids()
    coco_api = get_coco_api_from_dataset(dataset)
    return set() if coco_api is None else {one["category_id"] for one in coco_api.anns.values()}


def build_ground_truth(dataset: Any, args: Any) -> "COCO":
    """Return the ground truth of boxes and masks.

    Args:
        dataset: validation data.
        args: flags; they locate the instance annotations of panoptic data.

    Raises:
        UserError: instance annotations are missing, lack images, or have other category ids.
    """
    coco_api = get_coco_api_from_dataset(dataset)
    if coco_api is not None:
        return coco_api
    module = importlib.import_module(_BUILDERS[build_data_kind(args)])
    if not hasattr(module, "build_instances"):
        raise UserError(
            f"--dataset_file {args.dataset_file}: the {type(dataset).__name__} cannot be evaluated;"
            f" give it an attribute `coco`, the pycocotools COCO index, in {module.__name__}"
        )
    from datasets.annotations.class_tables import (
        ClassTable,
        check_instance_classes,
        table_of_dataset,
    )
    from datasets.annotations.coco_file import category_names
    from util.text import counted

    coco_api = module.build_instances(args)
    panoptic = table_of_dataset("panoptic", dataset)
    missing = [image_id for image_id in dataset.ids if image_id not in coco_api.imgs]
    if missing:
        raise UserError(
            f"the instance annotations lack {counted(len(missing), 'images')} of "
            f"{panoptic.source}, such as "
            f"image id {missing[0]}; give the matching file with --val_ann"
        )
    source = str(getattr(coco_api, "ann_file", "of these images"))
    instances = ClassTable("instance", source, category_names(coco_api.cats.values()), {})
    check_instance_classes(panoptic, instances, option(args, "skip_checks"))
    return coco_api

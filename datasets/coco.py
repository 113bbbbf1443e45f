"""COCO detection data: dataset and augmentation."""

import contextlib
import io
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torchvision
from PIL import Image
from pycocotools.coco import COCO

import datasets.transforms as T
from datasets.annotations.checks import check_image_folder
from datasets.annotations.coco_file import Row, load_annotations
from datasets.annotations.compact.instances import read_instances
from datasets.annotations.file_checks import warn_about_paths
from datasets.annotations.layouts import coco_paths
from datasets.annotations.object_checks import warn_about_objects
from datasets.annotations.start_checks import (
    check_boxes_and_counts,
    stop_or_warn,
    warn_about_boxes,
)
from datasets.formats.class_list import keep_classes, listed_classes
from datasets.formats.held_out import ImageSplit
from datasets.formats.tables import Tables
from datasets.loading.byte_images import IMAGENET, Normalization
from datasets.loading.listed_images import ListedImages
from datasets.loading.target_tensors import ConvertCocoPolysToMask, convert_coco_poly_to_mask
from datasets.transforms import Target, Transform
from util.errors import UserError
from util.options import option, prints_short

__all__ = [
    "CocoDetection",
    "ConvertCocoPolysToMask",
    "build",
    "convert_coco_poly_to_mask",
    "make_coco_transforms",
]

PUBLISHED_SCALES = tuple(range(480, 801, 32))


class CocoDetection(ListedImages, torchvision.datasets.CocoDetection):
    """Images and detection targets of a COCO instance annotation file.

    Ids, classes and sizes: see `ListedImages`.

    Attributes:
        origin: format and path of the data, for the summary printed at start-up.
        instances: the annotations; they are stored in arrays.
        split: the training/validation split, if it was created by ``--val_fraction``; else None.
    """

    split: ImageSplit | None = None

    def __init__(
        self,
        img_folder: str | Path,
        ann_file: str | Path,
        transforms: Transform | None,
        return_masks: bool,
        *,
        training: bool = False,
        num_classes: int | None = None,
        num_queries: int | None = None,
        skip_checks: bool = False,
        data: dict[str, Any] | None = None,
    ) -> None:
        """Load and check the annotation file.

        Args:
            img_folder: folder that image file names are relative to.
            ann_file: COCO instances JSON.
            transforms: called with image and target, and returns both; or None.
            return_masks: whether targets have masks.
            training: whether the data is for training and must therefore have annotations.
            num_classes: category ids must be below this; None: no limit.
            num_queries: maximum number of objects per training image; None: no limit.
            skip_checks: print the errors of `datasets.annotations.start_checks` as warnings, and
                accept images whose size differs from the annotation file.
            data: tables that have already been read; ``ann_file`` is then used in messages only.
                Missing optional fields are added in place.

        Raises:
            UserError: if a file is missing or invalid.
        """
        # Skip torchvision's constructor, which would load the file again, unchecked.
        super(torchvision.datasets.CocoDetection, self).__init__(img_folder)
        self._transforms = transforms
        self.prepare = ConvertCocoPolysToMask(return_masks)
        check_image_folder(img_folder, "train" if training else "val")
        with _log_lines() if data is None else contextlib.nullcontext():
            self.instances = read_instances(
                ann_file,
                img_folder,
                training=training,
                num_classes=num_classes,
                masks=return_masks,
                data=data,
            )
        print("creating index...\nindex created!")
        warn_about_paths(ann_file, "images", self.instances.images_outside(img_folder), img_folder)
        warn_about_boxes(self.instances, ann_file)
        warn_about_objects(self.instances, ann_file, training)
        check_boxes_and_counts(
            self.instances, ann_file, img_folder, training, num_queries, skip_checks
        )
        self._list(self.instances, img_folder, ann_file, skip_checks)
        self.origin = str(ann_file)

    @cached_property
    def coco(self) -> COCO:
        """Index of the file as in pycocotools; missing ``area`` and ``iscrowd`` are filled in.

        Built on first use, because it takes several times the memory of ``instances``.
        """
        coco = COCO()
        coco.dataset = self.instances.tables()
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco

    def annotated_category_ids(self) -> set[int]:
        """Category ids used by the annotations."""
        return set(np.unique(self.instances.category_id).tolist())

    def __getitem__(self, index: int) -> tuple[Any, Target]:
        """Return the transformed image and target at ``index``; see `untransformed`."""
        image, target = self.untransformed(index)
        if self._transforms is None:
            return image, target
        return self._transforms(image, target)

    def untransformed(self, index: int) -> tuple[Image.Image, Target]:
        """Return image and target at ``index``, see `ConvertCocoPolysToMask`.

        Raises:
            UserError: if the image cannot be read, or its size differs from the annotation file or
                from its RLEs.
        """
        image_id = self.ids[index]
        annotations = {"image_id": image_id, "annotations": self._load_target(image_id)}
        image = self._load_image(image_id)
        try:
            prepared: tuple[Image.Image, Target] = self.prepare(image, annotations)
        except ValueError as error:
            file_name = self.instances.image(image_id)["file_name"]
            raise UserError(
                f"image id {image_id} ({file_name}): {error}; fix the image or its annotations"
            ) from error
        return prepared

    def _load_target(self, id: int) -> list[Row]:
        return self.instances.annotations_of(id)


@contextlib.contextmanager
def _log_lines() -> Iterator[None]:
    """Print pycocotools' messages before and after an annotation file is read."""
    print("loading annotations into memory...")
    started = time.perf_counter()
    yield
    print(f"Done (t={time.perf_counter() - started:0.2f}s)")


def make_coco_transforms(
    image_set: str,
    scales: Sequence[int] | None = None,
    max_size: int = 1333,
    crop_prob: float = 0.5,
    normalization: Normalization = IMAGENET,
    resize: str = "pillow",
    flip_prob: float = 0.5,
) -> Transform:
    """Build the published augmentation.

    Training: flip with probability ``flip_prob``, then resize to a random scale. With probability
    ``crop_prob``, first resize to a short side of 400, 500 or 600 and crop to sides from 384 to
    600; these sizes are multiplied by (largest scale) / 800. Evaluation: resize to the largest
    scale. In a run `ToBytes` replaces the last transform: images are normalized on the device.

    Args:
        image_set: "train" or "val".
        scales: short sides in pixels; None: the published 480, 512, … 800.
        max_size: approximate limit for the long side in pixels.
        crop_prob: probability that a training image is cropped.
        normalization: mean and standard deviation of the images.
        resize: ``pillow`` or ``torch``, see `datasets.loading.geometry.resize_image`.
        flip_prob: probability that a training image is flipped horizontally.

    Raises:
        ValueError: if ``image_set`` is unknown.
        UserError: if there are no scales, or a size is not positive.

    Source: appendix A.4 of the paper.
    """
    scales = list(PUBLISHED_SCALES if scales is None else scales)
    if not scales or min(scales) < 1 or max_size < 1:
        raise UserError(
            f"--scales {scales} and --max_size {max_size} must be positive numbers of pixels"
        )
    to_normalized = T.ToNormalizedTensor(*normalization)
    if image_set == "val":
        return T.Compose([T.RandomResize([max(scales)], max_size, resize), to_normalized])
    if image_set != "train":
        raise ValueError(f'image_set must be "train" or "val", not {image_set!r}')
    before_crop, (shortest, longest) = (
        [max(1, round(size * max(scales) / max(PUBLISHED_SCALES))) for size in sizes]
        for sizes in ((400, 500, 600), (384, 600))
    )
    cropped: list[Transform] = [
        T.RandomResize(before_crop, None, resize),
        T.RandomSizeCrop(shortest, longest),
        T.RandomResize(scales, max_size, resize),
    ]
    whole = T.RandomResize(scales, max_size, resize)
    scaled_or_cropped = T.RandomSelect(whole, T.Compose(cropped), 1 - crop_prob)
    flip = T.RandomHorizontalFlip(flip_prob)
    return T.Compose([flip, scaled_or_cropped, to_normalized])


def build_transforms(image_set: str, args: Any) -> Transform:
    """Build the augmentation from the flags for sizes, resizing, crops, flips and normalization.

    Args:
        image_set: "train" or "val".
        args: namespace; missing flags get their defaults.

    Raises:
        UserError: if a size is invalid, see `make_coco_transforms`.
    """
    names = ("scales", "max_size", "crop_prob", "flip_prob", "resize")
    return make_coco_transforms(
        image_set,
        **{name: option(args, name) for name in names},
        normalization=Normalization(option(args, "image_mean"), option(args, "image_std")),
    )


def build(image_set: str, args: Any) -> CocoDetection:
    """Build the dataset of a split.

    Args:
        image_set: "train" or "val".
        args: ``coco_path``, ``masks``; optional: ``{train,val}_{images,ann}``, ``classes``,
            ``scales``, ``max_size``, ``crop_prob``, ``flip_prob``, ``resize``, ``image_mean``,
            ``image_std``, ``num_classes``, ``num_queries``, ``skip_checks``.

    Raises:
        UserError: if a path is missing, or the data is invalid.
    """
    img_folder, ann_file = coco_paths(
        image_set,
        getattr(args, "coco_path", None),
        option(args, f"{image_set}_images"),
        option(args, f"{image_set}_ann"),
    )
    classes = option(args, "classes")
    if classes is None:
        return _build_dataset(img_folder, ann_file, image_set, args)
    check_image_folder(img_folder, image_set)
    names = listed_classes(classes)
    with _log_lines():
        data = load_annotations(ann_file)
    data, remarks = keep_classes(data, names, ann_file, image_set)
    for remark in remarks:
        print(remark)
    return _build_dataset(img_folder, ann_file, image_set, args, data)


def build_from_tables(tables: Tables, image_set: str, args: Any) -> CocoDetection:
    """Build the dataset of a split from tables, and print what was read.

    Args:
        tables: tables of the split; checked like the tables of a COCO file.
        image_set: "train" or "val".
        args: see `build`; paths are not used. In the short ``log_style`` no summary is printed.

    Raises:
        UserError: if the data is invalid.
    """
    tables.report(image_set, summary=not prints_short(getattr(args, "log_style", "full")))
    # Up to --skip_bad_images images are replaced when they are read.
    if sum(len(note.places) for note in tables.errors) > option(args, "skip_bad_images"):
        errors = [f"{tables.source}: {note}" for note in tables.errors]
        fix = "scale the boxes with the images, or correct the sizes in the files"
        stop_or_warn(errors, fix, option(args, "skip_checks"))
    dataset = _build_dataset(tables.img_folder, tables.source, image_set, args, tables.data)
    dataset.origin = tables.origin
    dataset.split = tables.split
    return dataset


def _build_dataset(
    img_folder: Path, ann_file: Path, image_set: str, args: Any, data: dict[str, Any] | None = None
) -> CocoDetection:
    return CocoDetection(
        img_folder,
        ann_file,
        build_transforms(image_set, args),
        args.masks,
        training=image_set == "train",
        num_classes=option(args, "num_classes"),
        num_queries=getattr(args, "num_queries", None),
        skip_checks=option(args, "skip_checks"),
        data=data,
    )

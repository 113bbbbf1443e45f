"""COCO panoptic data: things and stuff."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch import Tensor
from torch.utils.data import Dataset

from datasets import coco
from datasets.annotations.checks import check_image_folder
from datasets.annotations.coco_file import Row
from datasets.annotations.compact.panoptic import read_panoptic
from datasets.annotations.panoptic import check_ids, read_id_map, thing_flags
from datasets.annotations.start_checks import check_segment_counts
from datasets.loading.listed_images import ListedImages
from datasets.transforms import Target, Transform
from util.box_ops import masks_to_boxes
from util.errors import UserError
from util.files.panoptic_png import VOID_ID
from util.options import option


class CocoPanoptic(ListedImages, Dataset):
    """Images and targets of a COCO panoptic annotation file: every segment is an object.

    Crowd segments are kept, as in the original. Ids, classes and sizes: see `ListedImages`.

    Attributes:
        img_folder: folder of the images; also available as ``root``.
        ann_folder: folder of the PNGs.
        segments: the annotations; they are stored in arrays.
        is_thing: whether each category id is a thing.
    """

    def __init__(
        self,
        img_folder: str | Path,
        ann_folder: str | Path,
        ann_file: str | Path,
        transforms: Transform | None = None,
        return_masks: bool = True,
        *,
        training: bool = False,
        num_classes: int | None = None,
        num_queries: int | None = None,
        skip_checks: bool = False,
    ) -> None:
        """Load and check the annotation file.

        Args:
            img_folder: folder that image file names are relative to.
            ann_folder: folder that the file names of segment maps are relative to.
            ann_file: COCO panoptic JSON.
            transforms: called with image and target, and returns both; or None.
            return_masks: whether targets have masks.
            training, num_classes, num_queries, skip_checks: see `datasets.coco.CocoDetection`.

        Raises:
            UserError: if a file is missing or invalid.
        """
        check_image_folder(img_folder, "train" if training else "val")
        self.segments = read_panoptic(
            ann_file, ann_folder, img_folder, training=training, num_classes=num_classes
        )
        check_segment_counts(
            self.segments,
            ann_file,
            training=training,
            num_queries=num_queries,
            skip_checks=skip_checks,
        )
        self._list(self.segments, img_folder, ann_file, skip_checks)
        self.img_folder = self.root = img_folder
        self.ann_folder = ann_folder
        self.transforms = transforms
        self.return_masks = return_masks
        self.is_thing = thing_flags(self.segments.categories)

    @cached_property
    def coco(self) -> dict[str, Any]:
        """Content of the JSON file, with images and annotations sorted by image id.

        It is made on first use, because it takes several times the memory of ``segments``.
        """
        return self.segments.tables()

    def annotated_category_ids(self) -> set[int]:
        """Category ids used by the segments."""
        return set(self.segments.category_ids.tolist())

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Any, Target]:
        """Return the transformed image and target at ``index``; see `untransformed`."""
        image, target = self.untransformed(index)
        return (image, target) if self.transforms is None else self.transforms(image, target)

    def untransformed(self, index: int) -> tuple[Image.Image, Target]:
        """Return image and target at ``index``.

        Returns:
            the image, and a target for N segments: ``boxes`` (N, 4) float32 xyxy pixels around the
            masks; ``labels`` (N,) int64 category ids; ``area`` (N,) square pixels; ``iscrowd``
            (N,) int64; ``image_id`` (1,); ``orig_size`` and ``size`` (2,) height and width; and
            ``masks`` (N, H, W) uint8 if requested.

        Raises:
            UserError: if the image or its segment map cannot be read or does not match the JSON.
        """
        image = self._load_image(self.ids[index])
        annotation = self.segments.map_of(self.ids[index])
        masks = self._masks(annotation, size_hw=(image.height, image.width))
        segments = annotation["segments_info"]
        size_hw = torch.tensor([image.height, image.width])
        target = {
            "image_id": torch.tensor([annotation["image_id"]]),
            "boxes": masks_to_boxes(masks),
            "labels": torch.tensor(
                [segment["category_id"] for segment in segments], dtype=torch.int64
            ),
            "area": torch.tensor(
                [_area(segment, mask) for segment, mask in zip(segments, masks, strict=True)],
                dtype=torch.int64,
            ),
            "iscrowd": torch.tensor(
                [int(segment.get("iscrowd") or 0) for segment in segments], dtype=torch.int64
            ),
            "orig_size": size_hw,
            "size": size_hw.clone(),
        }
        if self.return_masks:
            target["masks"] = masks
        return image, target

    def get_height_and_width(self, index: int) -> tuple[int, int]:
        """Height and width in pixels of the image at ``index``, without reading it."""
        row = self.segments.image(self.ids[index])
        return row["height"], row["width"]

    def _masks(self, annotation: Row, size_hw: tuple[int, int]) -> Tensor:
        """Read the masks of the segments, (N, H, W) uint8."""
        image_id, path = annotation["image_id"], Path(self.ann_folder) / annotation["file_name"]
        id_map = read_id_map(path, image_id, size_hw)
        ids = np.array([segment["id"] for segment in annotation["segments_info"]], dtype=np.int32)
        masks = id_map == ids[:, None, None]
        covered = masks.any(axis=0) | (id_map == VOID_ID)
        # Collect all ids of the map for the error message only if the ids differ: this is slow.
        if not (covered.all() and masks.any(axis=(1, 2)).all()):
            where = f"image id {image_id}: {path}"
            check_ids(set(np.unique(id_map).tolist()), set(ids.tolist()), where)
        return torch.from_numpy(masks.view(np.uint8))


def _area(segment: Row, mask: Tensor) -> int:
    """Area of a segment in square pixels, from the JSON if it is there, else from the mask."""
    area: int | None = segment.get("area")
    return int(mask.count_nonzero()) if area is None else area


def build(image_set: str, args: Any) -> CocoPanoptic:
    """Build the dataset of a split, in the layout of COCO 2017.

    Args:
        image_set: "train" or "val".
        args: ``coco_path`` (images), ``coco_panoptic_path`` (segment maps and JSON), ``masks``;
            optional: ``{train,val}_images``, ``scales``, ``max_size``, ``crop_prob``,
            ``flip_prob``, ``resize``, ``num_classes``, ``num_queries``, ``skip_checks``.

    Raises:
        UserError: if a path is missing, or the data is invalid.
    """
    img_folder, root = _image_folder(image_set, args), Path(_panoptic_root(args))
    return CocoPanoptic(
        img_folder,
        root / f"panoptic_{image_set}2017",
        root / "annotations" / f"panoptic_{image_set}2017.json",
        coco.build_transforms(image_set, args),
        args.masks,
        training=image_set == "train",
        num_classes=option(args, "num_classes"),
        num_queries=getattr(args, "num_queries", None),
        skip_checks=option(args, "skip_checks"),
    )


def build_instances(args: Any) -> COCO:
    """Load the instance annotations of the validation images, to compute AP in addition to PQ.

    For arguments and errors see `datasets.coco.build`.

    Returns:
        the index, with the path of the file as ``ann_file``.
    """
    instances = coco.build("val", args)
    instances.coco.ann_file = instances.ann_file
    return instances.coco


def _image_folder(image_set: str, args: Any) -> Path:
    if named := option(args, f"{image_set}_images"):
        return Path(named)
    if root := getattr(args, "coco_path", None):
        return Path(root) / f"{image_set}2017"
    raise UserError(f"no {image_set} images: give --coco_path, or --{image_set}_images")


def _panoptic_root(args: Any) -> str:
    root = getattr(args, "coco_panoptic_path", None)
    if not root:
        raise UserError("--dataset_file coco_panoptic needs --coco_panoptic_path")
    if option(args, "train_ann"):
        raise UserError(
            "--train_ann is for instance annotations, but panoptic training uses the files under "
            "--coco_panoptic_path; omit --train_ann"
        )
    return root

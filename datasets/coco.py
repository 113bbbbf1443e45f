"""Detection data in COCO format: a directory becomes a dataset of pictures and targets."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torch import Tensor

import datasets.transforms as T
from datasets.annotations.checks import check_annotations, check_image_folder, warn_about_boxes
from datasets.annotations.coco_file import (
    box_area,
    category_names,
    fill_optional_fields,
    largest_category_id,
    load_annotations,
)
from datasets.annotations.layouts import coco_paths
from datasets.annotations.segmentations import MAX_MASK_PIXELS, encode_segmentation
from datasets.annotations.start_checks import check_boxes_and_counts
from datasets.annotations.table_checks import warn_about_paths
from datasets.loading.listed_images import ListedImages
from datasets.loading.target_tensors import boxes_xyxy, keypoints_of
from datasets.transforms import Target, Transform
from util.errors import UserError
from util.options import option

PUBLISHED_SCALES = tuple(range(480, 801, 32))
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class CocoDetection(torchvision.datasets.CocoDetection):
    """Pictures and detection targets of a COCO annotation file.

    The file is loaded once, and checked as `datasets.annotations.checks` says.

    Attributes:
        ann_file: the file.
        coco: the pycocotools index of the file; as in the file, save that a missing ``area`` or
            ``iscrowd`` is filled in.
        ids: image ids, sorted.
        categories: name of each category id.
        largest_category_id: a classifier needs more classes than this.
    """

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
    ) -> None:
        """Load and check the annotation file.

        Args:
            img_folder: folder that the file names in the annotation file are relative to.
            ann_file: COCO JSON of instances.
            transforms: called with picture and target, returns both; None to leave them as they
                are.
            return_masks: whether targets have masks.
            training: whether the dataset is to be trained on; then it must have annotations.
            num_classes: category ids must be below this; None: any number of classes.
            num_queries: images of the training split must not have more objects; None: unlimited.
            skip_checks: print what `datasets.annotations.start_checks` finds as warnings, and
                take images of another size than the annotation file says.

        Raises:
            UserError: a file is missing, or the annotation file is not what training and evaluation
                need.
        """
        # Past torchvision's own constructor: it would load the file a second time, unchecked.
        super(torchvision.datasets.CocoDetection, self).__init__(img_folder)
        self._transforms = transforms
        self.prepare = ConvertCocoPolysToMask(return_masks)
        check_image_folder(img_folder, "train" if training else "val")
        data = _load_aloud(ann_file)
        check_annotations(
            data,
            ann_file,
            img_folder,
            training=training,
            num_classes=num_classes,
            masks=return_masks,
        )
        fill_optional_fields(data["annotations"])
        warn_about_paths(ann_file, "images", data["images"], img_folder)
        warn_about_boxes(data, ann_file)
        check_boxes_and_counts(data, ann_file, img_folder, training, num_queries, skip_checks)
        self.ann_file = ann_file
        self._images = ListedImages(img_folder, ann_file, skip_checks)
        self.coco = COCO()
        self.coco.dataset = data
        self.coco.createIndex()
        self.ids: list[int] = sorted(self.coco.imgs)
        self.categories = category_names(data["categories"])
        self.largest_category_id = largest_category_id(self.categories)

    def __getitem__(self, index: int) -> tuple[Any, Target]:
        """The picture and the target at ``index``, transformed.

        Raises:
            UserError: the image file cannot be read, its size is another than the annotation file
                says, or it is not that of its segmentations.
        """
        image_id = self.ids[index]
        annotations = {"image_id": image_id, "annotations": self._load_target(image_id)}
        image = self._load_image(image_id)
        try:
            image, target = self.prepare(image, annotations)
        except ValueError as error:
            file_name = self.coco.imgs[image_id]["file_name"]
            raise UserError(f"image id {image_id} ({file_name}): {error}; mend either") from error
        if self._transforms is None:
            return image, target
        return self._transforms(image, target)

    def take_note(self) -> str | None:
        """A sentence about an image turned upright since the last call, if there was any."""
        return self._images.take_note()

    def _load_image(self, id: int) -> Image.Image:
        return self._images.read(self.coco.imgs[id])


def _load_aloud(ann_file: str | Path) -> dict[str, Any]:
    """Load an annotation file with the log lines of pycocotools, which would load it unchecked."""
    print("loading annotations into memory...")
    started = time.perf_counter()
    data = load_annotations(ann_file)
    print(f"Done (t={time.perf_counter() - started:0.2f}s)")
    return data


class ConvertCocoPolysToMask:
    """Turn the COCO annotations of one picture into a target of tensors.

    Crowd annotations are left out, as are boxes of which nothing is inside the picture.

    Args:
        return_masks: whether to make masks too.
    """

    def __init__(self, return_masks: bool = False) -> None:
        self.return_masks = return_masks

    def __call__(self, image: Image.Image, target: dict[str, Any]) -> tuple[Image.Image, Target]:
        """Convert.

        Args:
            image: the picture, for its size.
            target: ``image_id``, and ``annotations`` as in a COCO file.

        Returns:
            The picture, and N objects: ``boxes`` (N, 4) float32 xyxy pixels, clipped to the
            picture; ``labels`` (N,) int64 category ids; ``area`` (N,) float32 square pixels;
            ``iscrowd`` (N,) int64; ``image_id`` (1,); ``orig_size`` and ``size`` (2,) height and
            width; where annotations have them ``keypoints`` (N, K, 3); on request ``masks`` (N, H,
            W) uint8.
        """
        width, height = image.size
        objects = [one for one in target["annotations"] if not one.get("iscrowd")]
        boxes = boxes_xyxy(objects, width, height)
        keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        kept = [one for one, stays in zip(objects, keep.tolist(), strict=True) if stays]
        converted = {
            "boxes": boxes[keep],
            "labels": torch.tensor([one["category_id"] for one in kept], dtype=torch.int64),
            "area": torch.tensor([box_area(one) for one in kept], dtype=torch.float32),
            "iscrowd": torch.zeros(len(kept), dtype=torch.int64),
            "image_id": torch.tensor([target["image_id"]]),
            "orig_size": torch.tensor([height, width]),
            "size": torch.tensor([height, width]),
        }
        if self.return_masks:
            segmentations = [one.get("segmentation") for one in kept]
            converted["masks"] = convert_coco_poly_to_mask(segmentations, height, width)
        if any(one.get("keypoints") for one in objects):
            converted["keypoints"] = keypoints_of(objects)[keep]
        return image, converted


def convert_coco_poly_to_mask(segmentations: Sequence[Any], height: int, width: int) -> Tensor:
    """Rasterise segmentations.

    Args:
        segmentations: one an object: a list of polygons (x, y, x, y, … in pixels) whose union is
            meant, or an RLE, plain or compressed.
        height: of the picture in pixels.
        width: of the picture in pixels.

    Returns:
        (N, H, W) uint8, 1 inside.

    Raises:
        ValueError: a segmentation has neither a polygon of three points nor an RLE of that size; or
            there are more than `MAX_MASK_PIXELS` pixels in all masks.
    """
    if not segmentations:
        return torch.zeros((0, height, width), dtype=torch.uint8)
    if len(segmentations) * height * width > MAX_MASK_PIXELS:
        raise ValueError(
            f"{len(segmentations)} masks of {height} x {width} pixels are more than "
            f"{MAX_MASK_PIXELS} pixels together"
        )
    encoded = [encode_segmentation(segmentation, height, width) for segmentation in segmentations]
    # (H, W, N) -> (N, H, W)
    return torch.from_numpy(coco_mask.decode(encoded)).permute(2, 0, 1).contiguous()


def make_coco_transforms(
    image_set: str,
    scales: Sequence[int] | None = None,
    max_size: int = 1333,
    crop_prob: float = 0.5,
) -> Transform:
    """The published augmentation.

    Training: mirrored with probability one half; then scaled, or with ``crop_prob`` scaled, cropped
    and scaled again. Evaluation: scaled to the largest of the scales. The sizes of the crop branch
    (scaled to 400, 500 or 600, cropped to sides from 384 to 600) belong to scales up to 800 and
    grow and shrink with the largest scale.

    Args:
        image_set: "train" or "val".
        scales: short sides in pixels; None: the published 480, 512, … 800.
        max_size: cap for the long side in pixels.
        crop_prob: probability that a training image is cropped.

    Raises:
        ValueError: for another ``image_set``.
        UserError: a scale is not positive, or there is none.

    Source: appendix A.4 of the paper.
    """
    scales = list(PUBLISHED_SCALES if scales is None else scales)
    if not scales or min(scales) < 1 or max_size < 1:
        raise UserError(
            f"--scales {scales} and --max_size {max_size} must be positive numbers of pixels"
        )
    to_normalized: list[Transform] = [T.ToTensor(), T.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    if image_set == "val":
        return T.Compose([T.RandomResize([max(scales)], max_size), *to_normalized])
    if image_set != "train":
        raise ValueError(f'image_set must be "train" or "val", not {image_set!r}')
    before_crop, (shortest, longest) = (
        [max(1, round(size * max(scales) / max(PUBLISHED_SCALES))) for size in sizes]
        for sizes in ((400, 500, 600), (384, 600))
    )
    cropped: list[Transform] = [
        T.RandomResize(before_crop),
        T.RandomSizeCrop(shortest, longest),
        T.RandomResize(scales, max_size),
    ]
    whole = T.RandomResize(scales, max_size)
    scaled_or_cropped = T.RandomSelect(whole, T.Compose(cropped), 1 - crop_prob)
    return T.Compose([T.RandomHorizontalFlip(), scaled_or_cropped, *to_normalized])


def build_transforms(image_set: str, args: Any) -> Transform:
    """The augmentation that the flags ``scales``, ``max_size`` and ``crop_prob`` describe.

    Args:
        image_set: "train" or "val".
        args: any namespace; it may be older than these flags.

    Raises:
        UserError: as `make_coco_transforms`.
    """
    names = ("scales", "max_size", "crop_prob")
    return make_coco_transforms(image_set, **{name: option(args, name) for name in names})


def build(image_set: str, args: Any) -> CocoDetection:
    """The dataset that the flags describe.

    Args:
        image_set: "train" or "val".
        args: ``coco_path``, ``masks``, and the newer ``{train,val}_{images,ann}``, ``scales``,
            ``max_size``, ``crop_prob``, ``num_classes``, ``skip_checks``; ``num_queries`` may be
            missing.

    Raises:
        UserError: a path is missing, or its content is not what training and evaluation need.
    """
    img_folder, ann_file = coco_paths(
        image_set,
        getattr(args, "coco_path", None),
        option(args, f"{image_set}_images"),
        option(args, f"{image_set}_ann"),
    )
    return CocoDetection(
        img_folder,
        ann_file,
        build_transforms(image_set, args),
        args.masks,
        training=image_set == "train",
        num_classes=option(args, "num_classes"),
        num_queries=getattr(args, "num_queries", None),
        skip_checks=option(args, "skip_checks"),
    )

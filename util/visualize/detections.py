"""Contact sheets of ground truth and detections side by side, as boxes or masks."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from util.visualize.boxes import BoxXYXY, draw_boxes
from util.visualize.contact_sheet import (
    contact_sheet,
    count,
    fit_column,
    save_image,
    with_caption,
)
from util.visualize.drawing import class_colour, resize_nearest

__all__ = [
    "BoxXYXY",
    "Panel",
    "class_colour",
    "detections_beside_ground_truth",
    "draw_boxes",
    "save_detection_samples",
]

Entry = Mapping[str, Any]
DecodeMask = Callable[[Entry], np.ndarray]
ReadImage = Callable[[str | Path, dict[str, Any]], Image.Image]


class Panel(NamedTuple):
    """An image and the objects to draw on it.

    Attributes:
        image: any mode.
        boxes_xyxy: [N] boxes in pixels of ``image``.
        labels: [N] class names.
        scores: [N] in [0, 1], or None for ground truth.
        caption: text above the image.
        masks: [N] of (H, W), non-zero inside, or None for boxes only. A generator is read once, so
            one mask of full size at a time is in memory.
    """

    image: Image.Image
    boxes_xyxy: Sequence[BoxXYXY]
    labels: Sequence[str]
    scores: Sequence[float] | None
    caption: str
    masks: Iterable[np.ndarray] | None = None


def detections_beside_ground_truth(rows: Iterable[tuple[Panel, Panel]]) -> Image.Image:
    """Contact sheet with a row per image: ground truth on the left, detections on the right.

    Args:
        rows: pairs of panels. Large images are scaled down to the width of a column.

    Raises:
        ValueError: there are no rows.
    """
    return contact_sheet([_draw_panel(panel) for panel in row] for row in rows)


def save_detection_samples(
    coco_gt: Any,
    detections: Iterable[Entry],
    image_folder: str | Path,
    path: str | Path,
    num_images: int = 8,
    threshold: float = 0.5,
    read_image: ReadImage | None = None,
    masks: bool = False,
) -> None:
    """Save a contact sheet of ground truth and detections for images spread over a dataset.

    Args:
        coco_gt: a pycocotools COCO object with the ground truth.
        detections: COCO result entries with ``image_id``, ``category_id``, ``bbox`` and ``score``.
        image_folder: folder of the image files in ``coco_gt``.
        path: image file to write: .png, .jpg or another format of Pillow. Not written if there are
            no images.
        num_images: maximum number of images; images with ground truth are preferred.
        threshold: detections with a lower score are not drawn.
        read_image: reads an image, given ``image_folder`` and the entry of the image in
            ``coco_gt``, such as `datasets.loading.listed_images.read_row_image`, which handles all
            modes and EXIF orientation. None: the pixels as stored.
        masks: draw the ``segmentation`` of annotations and detections too: polygons or RLE, plain
            or compressed. The images of ``coco_gt`` must have ``height`` and ``width``.

    Raises:
        UserError: Pillow knows no format with this suffix.
    """
    by_image = defaultdict(list)
    for entry in detections:
        by_image[entry["image_id"]].append(entry)
    names = {i: str(category.get("name", i)) for i, category in coco_gt.cats.items()}
    decode = partial(_decode_mask, coco_gt) if masks else None

    def row(image_id: int) -> tuple[Panel, Panel]:
        image = (read_image or _read_stored)(image_folder, coco_gt.imgs[image_id])
        annotations = coco_gt.loadAnns(coco_gt.getAnnIds(imgIds=[image_id]))
        left = _ground_truth_panel(image, image_id, annotations, names, decode)
        return left, _detection_panel(image, by_image[image_id], names, threshold, decode)

    image_ids = _choose_images(coco_gt, set(by_image), num_images)
    if image_ids:
        save_image(detections_beside_ground_truth(map(row, image_ids)), path)


def _read_stored(image_folder: str | Path, row: Entry) -> Image.Image:
    return Image.open(Path(image_folder) / row["file_name"])


def _choose_images(coco_gt: Any, detected: set[int], num_images: int) -> list[int]:
    """Evenly spaced ids of images with detections (of all images, if there are none)."""
    candidates = sorted(detected or coco_gt.imgs)
    with_objects = [i for i in candidates if coco_gt.getAnnIds(imgIds=[i])]
    candidates = with_objects or candidates
    number = min(num_images, len(candidates))
    return [candidates[k * len(candidates) // number] for k in range(number)]


def _decode_mask(coco_gt: Any, entry: Mapping[str, Any]) -> np.ndarray:
    """Mask (H, W) of an annotation or result entry; empty if it has no segmentation."""
    segmentation = entry.get("segmentation")
    if isinstance(segmentation, list):
        # A polygon needs three points; pycocotools would read two points as a box.
        segmentation = [polygon for polygon in segmentation if len(polygon) >= 6]
    if not segmentation:
        info = coco_gt.imgs[entry["image_id"]]
        return np.zeros((info["height"], info["width"]), dtype=np.uint8)
    mask: np.ndarray = coco_gt.annToMask({**entry, "segmentation": segmentation})
    return mask


def _ground_truth_panel(
    image: Image.Image,
    image_id: int,
    annotations: Sequence[Entry],
    names: Mapping[int, str],
    decode: DecodeMask | None,
) -> Panel:
    boxes, labels = _boxes_and_labels(annotations, names)
    caption = f"image {image_id}: ground truth, {count(len(boxes), 'object')}"
    return Panel(image, boxes, labels, None, caption, decode and map(decode, annotations))


def _detection_panel(
    image: Image.Image,
    entries: Sequence[Entry],
    names: Mapping[int, str],
    threshold: float,
    decode: DecodeMask | None,
) -> Panel:
    shown = sorted((e for e in entries if e["score"] >= threshold), key=lambda e: e["score"])
    boxes, labels = _boxes_and_labels(shown, names)
    caption = f"{count(len(shown), 'detection')} with a score of {threshold:.2f} or more"
    if not shown:
        best = max((entry["score"] for entry in entries), default=None)
        caption = "no detections" if best is None else f"{caption}, the best has {best:.2f}"
    scores = [entry["score"] for entry in shown]
    return Panel(image, boxes, labels, scores, caption, decode and map(decode, shown))


def _boxes_and_labels(
    entries: Iterable[Entry], names: Mapping[int, str]
) -> tuple[list[BoxXYXY], list[str]]:
    """Boxes (xyxy) and class names of COCO annotations or result entries (xywh)."""
    boxes: list[BoxXYXY] = []
    labels = []
    for entry in entries:
        x, y, width, height = entry["bbox"]
        boxes.append((x, y, x + width, y + height))
        labels.append(names.get(entry["category_id"], f"class {entry['category_id']}"))
    return boxes, labels


def _draw_panel(panel: Panel) -> Image.Image:
    """Draw a panel, at most as wide as a column."""
    image = fit_column(panel.image)
    factor = max(image.size) / max(panel.image.size)
    boxes = [[factor * value for value in box] for box in panel.boxes_xyxy]
    masks = panel.masks
    if masks is not None:
        masks = [resize_nearest(mask, image.size) for mask in masks]
    canvas = draw_boxes(image, boxes, panel.labels, panel.scores, masks)
    return with_caption(canvas, panel.caption)

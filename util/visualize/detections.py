"""Contact sheets of ground truth and detections side by side, as boxes or masks."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from util.box_matching import match_classes
from util.text import count
from util.visualize.boxes import BoxXYXY, draw_boxes
from util.visualize.contact_sheet import (
    COLUMN_WIDTH,
    contact_sheet,
    evenly_spaced,
    fit_column,
    save_image,
    shortened,
    with_caption,
)
from util.visualize.drawing import resize_nearest

_PAGE_COLUMN = 400  # longest side of an image on a page, in pixels
_FRAME = (205, 205, 205)
_MATCH_IOU = 0.5
_LEGEND = (
    "Left: ground truth. Right: detections with a score of {:.2f} or more. "
    "Dashed, !: missed objects and false detections (IoU 0.5)."
)

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
        masks: [N] masks (H, W), non-zero inside, or None for boxes only. With a generator, only
            one mask of full size is in memory at a time.
        dashed: [N] whether a box is drawn dashed, see `draw_boxes`; None: no box.
    """

    image: Image.Image
    boxes_xyxy: Sequence[BoxXYXY]
    labels: Sequence[str]
    scores: Sequence[float] | None
    caption: str
    masks: Iterable[np.ndarray] | None = None
    dashed: Sequence[bool] | None = None


def draw_panels(rows: Iterable[Sequence[Panel]]) -> Image.Image:
    """Draw panels into a contact sheet.

    Args:
        rows: panels of each row, left to right. Large images are scaled down to the column width.

    Raises:
        ValueError: if there are no rows.
    """
    return contact_sheet(
        [with_caption(_draw_panel(panel), panel.caption) for panel in row] for row in rows
    )


def save_detection_samples(
    coco_gt: Any,
    detections: Iterable[Entry],
    image_folder: str | Path,
    path: str | Path,
    read_image: ReadImage,
    num_images: int = 8,
    threshold: float = 0.5,
    masks: bool = False,
) -> None:
    """Save a contact sheet of ground truth and detections for images spread over a dataset.

    Each row has two images, each with ground truth on the left and detections on the right. Missed
    objects and false detections are dashed: they have no match of their class at a box IoU of 0.5.

    Args:
        coco_gt: a pycocotools COCO object with the ground truth.
        detections: COCO result entries with ``image_id``, ``category_id``, ``bbox`` and ``score``.
        image_folder: folder of the image files in ``coco_gt``.
        path: image file to write, in any format of Pillow; not written if there are no images.
        read_image: reads an image, given ``image_folder`` and its row in ``coco_gt``: in a run
            `datasets.loading.listed_images.read_row_image`.
        num_images: maximum number of images; images with ground truth are preferred.
        threshold: detections with a lower score are not drawn.
        masks: draw the ``segmentation`` of annotations and detections too: polygons or RLE, plain
            or compressed. The images of ``coco_gt`` must have ``height`` and ``width``.

    Raises:
        UserError: if Pillow has no format with this suffix.
    """
    by_image = defaultdict(list)
    for entry in detections:
        by_image[entry["image_id"]].append(entry)
    names = {i: str(category.get("name", i)) for i, category in coco_gt.cats.items()}
    decode = partial(_decode_mask, coco_gt) if masks else None

    def row(image_id: int) -> tuple[Panel, Panel]:
        """Ground truth and detections of one image, side by side."""
        image = read_image(image_folder, coco_gt.imgs[image_id])
        annotations = coco_gt.loadAnns(coco_gt.getAnnIds(imgIds=[image_id]))
        found = sorted(by_image[image_id], key=lambda entry: entry["score"])
        shown = [entry for entry in found if entry["score"] >= threshold]
        missed, false = _missed_and_false(annotations, shown)
        left = _panel(image, annotations, names, decode, missed)
        left = left._replace(caption=_truth_caption(coco_gt.imgs[image_id], missed), scores=None)
        right = _panel(image, shown, names, decode, false)
        return left, right._replace(caption=_detections_caption(found, false))

    image_ids = _choose_images(coco_gt, set(by_image), num_images)
    if image_ids:
        sheet = _page([_draw_pair(*row(image_id)) for image_id in image_ids])
        legend = with_caption(sheet, _LEGEND.format(threshold))
        save_image(contact_sheet([[legend]]), path)


def _choose_images(coco_gt: Any, detected: set[int], num_images: int) -> list[int]:
    """Evenly spaced ids of images with detections, or of all images if there are none."""
    candidates = sorted(detected or coco_gt.imgs)
    with_objects = [i for i in candidates if coco_gt.getAnnIds(imgIds=[i])]
    return evenly_spaced(with_objects or candidates, num_images)


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


def _missed_and_false(
    annotations: Sequence[Entry], shown: Sequence[Entry]
) -> tuple[list[bool], list[bool]]:
    """Whether each annotation is missed, and whether each detection is false.

    Crowds are never missed, and a detection in a crowd of its class is not false.

    Args:
        shown: detections in ascending order of score.
    """
    objects = [i for i, annotation in enumerate(annotations) if not annotation.get("iscrowd")]
    crowds = [annotation for annotation in annotations if annotation.get("iscrowd")]
    found, truth, crowded = map(
        _labels_and_boxes, (shown[::-1], [annotations[i] for i in objects], crowds)
    )
    matched = match_classes(found, truth, crowded, _MATCH_IOU)
    missed = set(objects) - {objects[match] for match in matched.tolist() if match >= 0}
    false = (matched == -1)[::-1].tolist()
    return [index in missed for index in range(len(annotations))], false


def _labels_and_boxes(entries: Sequence[Entry]) -> tuple[np.ndarray, list[Any]]:
    return np.array([e["category_id"] for e in entries]), [e["bbox"] for e in entries]


def _panel(
    image: Image.Image,
    entries: Sequence[Entry],
    names: Mapping[int, str],
    decode: DecodeMask | None,
    dashed: Sequence[bool],
) -> Panel:
    """Panel with COCO annotations or result entries, without a caption."""
    boxes = [(x, y, x + width, y + height) for x, y, width, height in (e["bbox"] for e in entries)]
    labels = [names.get(e["category_id"], f"class {e['category_id']}") for e in entries]
    scores = [entry.get("score", 0) for entry in entries]
    return Panel(image, boxes, labels, scores, "", decode and map(decode, entries), dashed)


def _truth_caption(row: Entry, missed: Sequence[bool]) -> str:
    name = Path(row["file_name"]).name
    return f"{name}: {count(len(missed), 'object')}, {sum(missed)} missed"


def _detections_caption(found: Sequence[Entry], false: Sequence[bool]) -> str:
    """Caption for detections.

    Args:
        found: all detections of an image, in ascending order of score.
        false: whether each drawn detection is false.
    """
    if false:
        return f"{count(len(false), 'detection')}, {sum(false)} false"
    return f"no detection, best score {found[-1]['score']:.2f}" if found else "no detection"


def _draw_panel(panel: Panel, width: int = COLUMN_WIDTH) -> Image.Image:
    """Draw a panel, at most ``width`` pixels wide and high, without its caption."""
    image = fit_column(panel.image, width)
    factor = max(image.size) / max(panel.image.size)
    boxes = [[factor * value for value in box] for box in panel.boxes_xyxy]
    masks = panel.masks
    if masks is not None:
        masks = [resize_nearest(mask, image.size) for mask in masks]
    return draw_boxes(image, boxes, panel.labels, panel.scores, masks, panel.dashed)


def _draw_pair(left: Panel, right: Panel) -> Image.Image:
    """Ground truth and detections of an image, in a frame."""
    drawn = []
    for panel in (left, right):
        canvas = _draw_panel(panel, _PAGE_COLUMN)
        drawn.append(with_caption(canvas, shortened(panel.caption, canvas.width)))
    pair = contact_sheet([drawn])
    ImageDraw.Draw(pair).rectangle((0, 0, pair.width - 1, pair.height - 1), outline=_FRAME)
    return pair


def _page(pairs: Sequence[Image.Image]) -> Image.Image:
    """Arrange pairs in two columns, or in one column if there are at most two."""
    columns = 1 if len(pairs) <= 2 else 2
    return contact_sheet(
        [pairs[start : start + columns] for start in range(0, len(pairs), columns)]
    )

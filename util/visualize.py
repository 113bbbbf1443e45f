"""Pictures of boxes: drawn on one image, and detections beside ground truth on a contact sheet."""

import colorsys
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from util.checkpoint import atomic_write

BoxXYXY = Sequence[float]

# Text of this height, in pixels, is legible; smaller images are enlarged to carry it, and on larger
# ones, which will be looked at from further away, it grows.
_FONT_SIZE = 14
_FONT_SHARE_OF_LONG_SIDE = 1 / 60
_SMALLEST_LONG_SIDE = 400
_LARGEST_ENLARGEMENT = 8
_PANEL_WIDTH = 640
_MARGIN = 8
_CAPTION_HEIGHT = _FONT_SIZE + 8
_BACKGROUND = (250, 250, 250)
_INK = (20, 20, 20)


class Panel(NamedTuple):
    """An image with what is to be drawn on it.

    Attributes:
        image: any mode.
        boxes_xyxy: [N] boxes in pixels of ``image``.
        labels: [N] class names.
        scores: [N] in [0, 1], or None for ground truth.
        caption: a line above the image.
    """

    image: Image.Image
    boxes_xyxy: Sequence[BoxXYXY]
    labels: Sequence[str]
    scores: Sequence[float] | None
    caption: str


def draw_boxes(
    image: Image.Image,
    boxes_xyxy: Sequence[BoxXYXY],
    labels: Sequence[str],
    scores: Sequence[float] | None = None,
) -> Image.Image:
    """Draws labelled boxes on a copy of an image, each class in a colour of its own.

    Args:
        image: stays as it is.
        boxes_xyxy: [N] corners in pixels of ``image``; parts outside are cut off.
        labels: [N] class names.
        scores: [N] in [0, 1], shown behind the names; None shows names only.

    Returns:
        An RGB image of the same size, or enlarged by a whole factor where the text would not be
        legible otherwise.

    Raises:
        ValueError: boxes, labels and scores are not of one length.
    """
    if not len(boxes_xyxy) == len(labels) == len(labels if scores is None else scores):
        raise ValueError(
            f"expected as many labels and scores as boxes ({len(boxes_xyxy)}), got {len(labels)} "
            f"labels and {'no' if scores is None else len(scores)} scores"
        )
    factor = _enlargement(image)
    picture = image.convert("RGB").resize(
        (image.width * factor, image.height * factor), Image.Resampling.BICUBIC
    )
    draw = ImageDraw.Draw(picture)
    texts = (
        labels if scores is None else [f"{n} {s:.2f}" for n, s in zip(labels, scores, strict=True)]
    )
    outlines = [_inside(box, factor, picture.size) for box in boxes_xyxy]
    for outline, label in zip(outlines, labels, strict=True):
        draw.rectangle(outline, outline=class_colour(label), width=_line_width(picture))
    # Names come after all outlines, so that no outline crosses a name.
    for outline, label, text in zip(outlines, labels, texts, strict=True):
        _write_name(draw, outline, text, class_colour(label), picture.size)
    return picture


def detections_beside_ground_truth(rows: Iterable[tuple[Panel, Panel]]) -> Image.Image:
    """A contact sheet with a row for each image: ground truth on the left, detections on the right.

    Args:
        rows: pairs of panels. Large images are shrunk to the width of a column.

    Raises:
        ValueError: there are no rows.
    """
    drawn = [[_draw_panel(panel) for panel in row] for row in rows]
    if not drawn:
        raise ValueError("a contact sheet needs at least one row")
    column_width = max(picture.width for row in drawn for picture in row) + _MARGIN
    row_heights = [max(picture.height for picture in row) + _MARGIN for row in drawn]
    size = (2 * column_width + _MARGIN, sum(row_heights) + _MARGIN)
    sheet = Image.new("RGB", size, _BACKGROUND)
    top = _MARGIN
    for row, height in zip(drawn, row_heights, strict=True):
        for column, picture in enumerate(row):
            sheet.paste(picture, (_MARGIN + column * column_width, top))
        top += height
    return sheet


def save_detection_samples(
    coco_gt: Any,
    detections: Iterable[Mapping[str, Any]],
    image_folder: str | Path,
    path: str | Path,
    num_images: int = 8,
    threshold: float = 0.5,
    read_image: Callable[[Path], Image.Image] = Image.open,
) -> None:
    """Saves a picture of detections beside ground truth, for images spread over the whole set.

    Args:
        coco_gt: a pycocotools COCO object with the ground truth.
        detections: COCO result entries with ``image_id``, ``category_id``, ``bbox`` and ``score``.
        image_folder: where the files named in ``coco_gt`` are.
        path: the picture to write, ending in .png, .jpg or another format of Pillow. Without any
            image nothing is written.
        num_images: how many images to show at most, those with ground truth first.
        threshold: detections with a lower score are left out.
        read_image: opens an image file; `datasets.images.read_image` knows every mode.
    """
    by_image = defaultdict(list)
    for entry in detections:
        by_image[entry["image_id"]].append(entry)
    names = {i: str(category.get("name", i)) for i, category in coco_gt.cats.items()}
    rows = []
    for image_id in _choose_images(coco_gt, set(by_image), num_images):
        image = read_image(Path(image_folder) / coco_gt.imgs[image_id]["file_name"])
        annotations = coco_gt.loadAnns(coco_gt.getAnnIds(imgIds=[image_id]))
        left = _ground_truth_panel(image, image_id, annotations, names)
        rows.append((left, _detection_panel(image, by_image[image_id], names, threshold)))
    if rows:
        format_name = Image.registered_extensions()[Path(path).suffix.lower()]
        with atomic_write(path) as file:
            detections_beside_ground_truth(rows).save(file, format_name)


def class_colour(name: str) -> tuple[int, int, int]:
    """A bright RGB colour, three numbers from 0 to 255, always the same for the same name."""
    hue = zlib.crc32(name.encode()) % 360 / 360
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


def _choose_images(coco_gt: Any, detected: set[int], num_images: int) -> list[int]:
    """Ids at equal distances among the images with detections (all, if there are none)."""
    candidates = sorted(detected or coco_gt.imgs)
    with_objects = [i for i in candidates if coco_gt.getAnnIds(imgIds=[i])]
    candidates = with_objects or candidates
    count = min(num_images, len(candidates))
    return [candidates[k * len(candidates) // count] for k in range(count)]


def _ground_truth_panel(
    image: Image.Image,
    image_id: int,
    annotations: Sequence[Mapping[str, Any]],
    names: Mapping[int, str],
) -> Panel:
    boxes, labels = _boxes_and_labels(annotations, names)
    caption = f"image {image_id}: ground truth, {_count(len(boxes), 'object')}"
    return Panel(image, boxes, labels, None, caption)


def _detection_panel(
    image: Image.Image,
    entries: Sequence[Mapping[str, Any]],
    names: Mapping[int, str],
    threshold: float,
) -> Panel:
    shown = sorted((e for e in entries if e["score"] >= threshold), key=lambda e: e["score"])
    boxes, labels = _boxes_and_labels(shown, names)
    caption = f"{_count(len(shown), 'detection')} with a score of {threshold:.2f} or more"
    if not shown:
        best = max((entry["score"] for entry in entries), default=None)
        caption = "no detections" if best is None else f"{caption}, the best has {best:.2f}"
    return Panel(image, boxes, labels, [entry["score"] for entry in shown], caption)


def _boxes_and_labels(
    entries: Iterable[Mapping[str, Any]], names: Mapping[int, str]
) -> tuple[list[BoxXYXY], list[str]]:
    """Corners and class names of COCO annotations or result entries, whose boxes are xywh."""
    boxes: list[BoxXYXY] = []
    labels = []
    for entry in entries:
        x, y, width, height = entry["bbox"]
        boxes.append((x, y, x + width, y + height))
        labels.append(names.get(entry["category_id"], f"class {entry['category_id']}"))
    return boxes, labels


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _draw_panel(panel: Panel) -> Image.Image:
    """The image with its boxes, at most a column wide, below its caption."""
    image = panel.image.convert("RGB")
    factor = min(1.0, _PANEL_WIDTH / max(image.size))
    if factor < 1:
        image = image.resize(
            (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        )
    boxes = [[factor * value for value in box] for box in panel.boxes_xyxy]
    picture = draw_boxes(image, boxes, panel.labels, panel.scores)
    font = ImageFont.load_default(_FONT_SIZE)
    width = max(picture.width, round(font.getlength(panel.caption)))
    framed = Image.new("RGB", (width, picture.height + _CAPTION_HEIGHT), _BACKGROUND)
    ImageDraw.Draw(framed).text((0, 2), panel.caption, fill=_INK, font=font)
    framed.paste(picture, (0, _CAPTION_HEIGHT))
    return framed


def _enlargement(image: Image.Image) -> int:
    """The whole factor by which a small image grows until text fits on it."""
    factor = -(-_SMALLEST_LONG_SIDE // max(image.size))
    return min(factor, _LARGEST_ENLARGEMENT)


def _inside(
    box_xyxy: BoxXYXY, factor: int, size_wh: tuple[int, int]
) -> tuple[float, float, float, float]:
    """The box in pixels of the enlarged picture, cut to it, its corners in order."""
    x0, y0, x1, y1 = (float(value) * factor for value in box_xyxy)
    right, bottom = size_wh[0] - 1, size_wh[1] - 1
    left, top = min(max(min(x0, x1), 0), right), min(max(min(y0, y1), 0), bottom)
    return left, top, min(max(x0, x1, left), right), min(max(y0, y1, top), bottom)


def _line_width(picture: Image.Image) -> int:
    return max(2, max(picture.size) // 300)


def _write_name(
    draw: ImageDraw.ImageDraw,
    outline: tuple[float, float, float, float],
    text: str,
    colour: tuple[int, int, int],
    size_wh: tuple[int, int],
) -> None:
    """A name on a ground of its class's colour, above the box where there is room, else inside."""
    font_size = max(_FONT_SIZE, round(max(size_wh) * _FONT_SHARE_OF_LONG_SIDE))
    font = ImageFont.load_default(font_size)
    width, height = font.getlength(text) + 4, font_size + 4
    left = max(0, min(outline[0], size_wh[0] - width))
    top = outline[1] - height if outline[1] >= height else outline[1]
    draw.rectangle((left, top, left + width, top + height), fill=colour)
    draw.text((left + 2, top + 1), text, fill=_readable_on(colour), font=font)


def _readable_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black on light colours, white on dark ones."""
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return (0, 0, 0) if luminance > 140 else (255, 255, 255)

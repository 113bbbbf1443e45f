"""Draw sample images with their boxes."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.annotations.coco_file import Row
from datasets.check.images import ListedImage
from datasets.loading.images import read_listed_image
from util.errors import UserError
from util.visualize.contact_sheet import evenly_spaced, save_image
from util.visualize.detections import Panel, draw_panels


class Sample(NamedTuple):
    """An image to draw.

    Attributes:
        title: title above the image.
        image: the image in the annotation file.
        boxes_xyxy: N boxes in pixels.
        labels: N class names.
    """

    title: str
    image: ListedImage
    boxes_xyxy: list[list[float]]
    labels: list[str]


def choose_samples(
    split_name: str,
    images: Mapping[int, ListedImage],
    annotations: Iterable[Row],
    class_names: Mapping[int, str],
    count: int,
) -> list[Sample]:
    """Choose evenly spaced images with annotations.

    Args:
        split_name: name of the split, for titles.
        annotations: annotations with a valid ``image_id``, ``category_id`` and ``bbox``.
        count: maximum number of images.
    """
    by_image = defaultdict(list)
    for row in annotations:
        by_image[row["image_id"]].append(row)
    samples = []
    for image_id in evenly_spaced(sorted(by_image), count):
        rows = by_image[image_id]
        title = f"{split_name}: image {image_id}, annotations: {len(rows)}"
        labels = [class_names[row["category_id"]] for row in rows]
        boxes = [_corners(row["bbox"]) for row in rows]
        samples.append(Sample(title, images[image_id], boxes, labels))
    return samples


def _corners(box_xywh: Sequence[float]) -> list[float]:
    left, top, width, height = map(float, box_xywh)
    return [left, top, left + width, top + height]


def save_pictures(samples: Iterable[Sample], path: Path) -> int:
    """Draw samples into one image, two per row.

    Args:
        samples: images to draw; unreadable images are omitted.
        path: file to write, in a format that Pillow supports; not written if there are no images.

    Returns:
        number of images drawn.
    """
    panels = [panel for panel in map(_panel, samples) if panel is not None]
    if panels:
        save_image(draw_panels([panels[i : i + 2] for i in range(0, len(panels), 2)]), path)
    return len(panels)


def _panel(sample: Sample) -> Panel | None:
    """Read an image to draw; None if unreadable (reported elsewhere)."""
    listed = sample.image
    try:
        image, _ = read_listed_image(listed.path, listed.size_wh, upright=listed.upright)
    except UserError:
        return None
    return Panel(image, sample.boxes_xyxy, sample.labels, None, sample.title)

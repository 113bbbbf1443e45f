"""Pictures of a data set under check: a sample of its images with the boxes drawn on them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from datasets.annotations.coco_file import Row
from datasets.check.images import ListedImage
from datasets.loading.images import read_listed_image
from util.errors import UserError
from util.files.checkpoint import atomic_write
from util.visualize.detections import Panel, detections_beside_ground_truth


class Sample(NamedTuple):
    """An image to be drawn.

    Attributes:
        title: what it is called above the picture.
        path: of the image file.
        size_wh: width and height in pixels in the annotation file, or None.
        boxes_xyxy: [N] corners in pixels.
        labels: [N] class names.
    """

    title: str
    path: Path
    size_wh: tuple[int, int] | None
    boxes_xyxy: list[list[float]]
    labels: list[str]


def choose_samples(
    split_name: str,
    images: Mapping[int, ListedImage],
    annotations: Iterable[Row],
    class_names: Mapping[int, str],
    count: int,
) -> list[Sample]:
    """At most ``count`` images at equal distances among those with annotations.

    Args:
        split_name: for the titles.
        images: by id.
        annotations: with an id of ``images``, one of ``class_names``, and a ``bbox``.
        class_names: by category id.
        count: of images.
    """
    by_image = defaultdict(list)
    for row in annotations:
        by_image[row["image_id"]].append(row)
    candidates = sorted(by_image)
    count = min(count, len(candidates))
    samples = []
    for image_id in (candidates[k * len(candidates) // count] for k in range(count)):
        rows = by_image[image_id]
        title = f"{split_name}: image {image_id}, annotations: {len(rows)}"
        labels = [class_names[row["category_id"]] for row in rows]
        boxes = [_corners(row["bbox"]) for row in rows]
        listed = images[image_id]
        samples.append(Sample(title, listed.path, listed.size_wh, boxes, labels))
    return samples


def _corners(box_xywh: Sequence[float]) -> list[float]:
    left, top, width, height = map(float, box_xywh)
    return [left, top, left + width, top + height]


def save_pictures(samples: Iterable[Sample], path: Path) -> int:
    """Draw samples, two in a row, into one picture.

    Args:
        samples: those that cannot be read are left out.
        path: the file to write, with an ending that Pillow knows; not written without a sample.

    Returns:
        How many were drawn.
    """
    panels = [panel for panel in map(_panel, samples) if panel is not None]
    count = len(panels)
    if not panels:
        return 0
    if count % 2:
        panels.append(Panel(Image.new("RGB", (1, 1), "white"), [], [], None, ""))
    sheet = detections_beside_ground_truth(zip(panels[::2], panels[1::2], strict=True))
    with atomic_write(path) as file:
        sheet.save(file, Image.registered_extensions()[path.suffix.lower()])
    return count


def _panel(sample: Sample) -> Panel | None:
    """What is drawn of an image; None where the file cannot be read, which is told elsewhere."""
    try:
        image, _ = read_listed_image(sample.path, sample.size_wh)
    except UserError:
        return None
    return Panel(image, sample.boxes_xyxy, sample.labels, None, sample.title)

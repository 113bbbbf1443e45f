"""Annotated images (boxes, masks or segments), and a crop per detection."""

import re
from collections import Counter
from pathlib import Path

from PIL import Image

from prediction.inputs.reading import Item
from prediction.names import picture_name
from prediction.result import Prediction
from util.visualize.boxes import draw_boxes
from util.visualize.contact_sheet import save_image
from util.visualize.panoptic import draw_panoptic


def draw(image: Image.Image, prediction: Prediction) -> Image.Image:
    """Draw a prediction on a copy of its image: segments if there are any, else boxes and masks.

    Small images are enlarged by an integer factor, so that text is readable.
    """
    if prediction.segment_map is not None:
        names = {segment["category_id"]: segment["name"] for segment in prediction.segments}
        return draw_panoptic(image, prediction.segment_map, prediction.segments, names)
    # Reversed: the highest score is drawn last, on top.
    masks = None if prediction.masks is None else prediction.masks[::-1]
    boxes, scores = prediction.boxes_xyxy[::-1].tolist(), prediction.scores[::-1].tolist()
    return draw_boxes(image, boxes, prediction.names[::-1], scores, masks)


class Pictures:
    """Writes ``pictures/``: each image with its detections."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "pictures"

    def add(self, item: Item, image: Image.Image, prediction: Prediction) -> None:
        """Draw and save an annotated image."""
        save_below(draw(image, prediction), self._folder / picture_name(item.name))

    def close(self) -> None:
        """Do nothing: images are saved one by one."""


class Crops:
    """Writes ``crops/CLASS/``: a crop of each detection."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "crops"

    def add(self, item: Item, image: Image.Image, prediction: Prediction) -> None:
        """Crop and save the detections in an image, numbered per class by descending score."""
        path = Path(picture_name(item.name))
        numbers: Counter[str] = Counter()
        for name, box in zip(prediction.names, prediction.boxes_xyxy.tolist(), strict=True):
            folder = _folder_name(name)
            numbers[folder] += 1
            crop = image.crop(_pixels_of(box, image.size))
            file = path.with_name(f"{path.stem}_{numbers[folder]}{path.suffix}")
            save_below(crop, self._folder / folder / file)

    def close(self) -> None:
        """Do nothing: crops are saved one by one."""


def save_below(image: Image.Image, path: Path) -> None:
    """Save an image; its folder is created if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(image, path, durable=False)


def _pixels_of(box_xyxy: list[float], size_wh: tuple[int, int]) -> tuple[int, int, int, int]:
    """Pixel coordinates of a box clipped to the image; it contains at least one pixel."""
    width, height = size_wh
    left = min(max(int(box_xyxy[0]), 0), width - 1)
    top = min(max(int(box_xyxy[1]), 0), height - 1)
    right = min(max(round(box_xyxy[2]), left + 1), width)
    bottom = min(max(round(box_xyxy[3]), top + 1), height)
    return left, top, right, bottom


def _folder_name(class_name: str) -> str:
    """Folder name for a class name.

    >>> _folder_name("traffic light"), _folder_name("../a")
    ('traffic_light', '_a')
    """
    return re.sub(r"[^\w-]+", "_", class_name) or "_"

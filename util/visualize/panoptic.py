"""Draw panoptic maps over an image, and contact sheets of ground truth and predictions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from util.text import count
from util.visualize.contact_sheet import (
    contact_sheet,
    fit_column,
    save_image,
    with_caption,
)
from util.visualize.drawing import (
    Color,
    TextStyle,
    enlarged,
    line_width,
    object_color,
    ranks_within,
    resize_nearest,
    stuff_color,
    with_scores,
)
from util.visualize.masks import paint_segments, place_labels

SegmentInfo = Mapping[str, Any]
Names = Mapping[int, str]


class PanopticSample(NamedTuple):
    """An image with its ground-truth and predicted panoptic map.

    Attributes:
        read_image: returns the image, of any mode.
        truth_map: int (H, W) segment ids.
        truth_segments: see `draw_panoptic`.
        predicted_map: int (H, W) segment ids.
        predicted_segments: see `draw_panoptic`.
        names: category names by id.
        caption: name of the image.
    """

    read_image: Callable[[], Image.Image]
    truth_map: np.ndarray
    truth_segments: Sequence[SegmentInfo]
    predicted_map: np.ndarray
    predicted_segments: Sequence[SegmentInfo]
    names: Names
    caption: str


def draw_panoptic(
    image: Image.Image, id_map: np.ndarray, segments: Sequence[SegmentInfo], names: Names
) -> Image.Image:
    """Draw a panoptic map over a copy of an image.

    Things are bright, with different shades within a class; stuff is pale. Segments that are large
    enough are labeled with their class name and score.

    Args:
        image: not changed.
        id_map: int (H, W) segment ids at the size of ``image``. Pixels with an id that is not in
            ``segments`` are void and unchanged.
        segments: dicts with ``id``, ``category_id`` and optionally ``isthing`` (default: True) and
            ``score`` in [0, 1].

    Returns:
        an RGB image of the same size; small images are enlarged by an integer factor, so that text
        is legible.

    Raises:
        ValueError: if image and map differ in size.
    """
    if id_map.shape != (image.height, image.width):
        raise ValueError(
            f"expected a map of {image.height} x {image.width} (height x width) ids like the "
            f"image, got {' x '.join(map(str, id_map.shape))}"
        )
    canvas = enlarged(image)
    index_map = resize_nearest(_index_map(id_map, segments), canvas.size)
    labels = [names.get(s["category_id"], f"class {s['category_id']}") for s in segments]
    colors = _colors(index_map, segments, labels)
    canvas = paint_segments(canvas, index_map, colors, line_width(canvas))
    texts = with_scores(labels, [segment.get("score") for segment in segments])
    _write_labels(canvas, index_map, texts, colors)
    return canvas


def save_panoptic_samples(samples: Iterable[PanopticSample], path: str | Path) -> None:
    """Save a contact sheet with a row per image: ground truth on the left, prediction on the right.

    Args:
        samples: samples to draw. Large images are scaled down to the width of a column. Maps may
            differ from their image in size.
        path: image file to write, in any format of Pillow; not written if there are no samples.

    Raises:
        UserError: if Pillow has no format with this suffix.
    """
    rows = [_draw_row(sample) for sample in samples]
    if rows:
        save_image(contact_sheet(rows), path)


def _draw_row(sample: PanopticSample) -> tuple[Image.Image, Image.Image]:
    image = fit_column(sample.read_image())

    def draw(id_map: np.ndarray, segments: Sequence[SegmentInfo], title: str) -> Image.Image:
        """Draw segments over the image, with a caption."""
        fitted = resize_nearest(id_map, image.size)
        canvas = draw_panoptic(image, fitted, segments, sample.names)
        return with_caption(canvas, f"{title}, {count(len(segments), 'segment')}")

    return (
        draw(sample.truth_map, sample.truth_segments, f"{sample.caption}: ground truth"),
        draw(sample.predicted_map, sample.predicted_segments, "prediction"),
    )


def _index_map(id_map: np.ndarray, segments: Sequence[SegmentInfo]) -> np.ndarray:
    """Index in ``segments`` of the id at each pixel; -1 for other ids."""
    ids, inverse = np.unique(id_map, return_inverse=True)
    index_of = {segment["id"]: index for index, segment in enumerate(segments)}
    indices = np.array([index_of.get(segment_id, -1) for segment_id in ids.tolist()])
    return indices[inverse].reshape(id_map.shape)


def _colors(
    index_map: np.ndarray, segments: Sequence[SegmentInfo], labels: Sequence[str]
) -> list[Color]:
    """Color of each segment; adjacent segments of a class, from left to right, differ in shade."""
    ranks = ranks_within(labels, _mean_columns(index_map, len(segments)))
    return [
        object_color(label, rank) if segment.get("isthing", True) else stuff_color(label)
        for segment, label, rank in zip(segments, labels, ranks, strict=True)
    ]


def _mean_columns(index_map: np.ndarray, num_segments: int) -> list[float]:
    """Mean x of the pixels of each segment; 0 for a segment without pixels."""
    inside = index_map >= 0
    indices, columns = index_map[inside], np.nonzero(inside)[1]
    sums = np.bincount(indices, weights=columns, minlength=num_segments)
    areas = np.bincount(indices, minlength=num_segments)
    means: list[float] = (sums / areas.clip(1)).tolist()
    return means


def _write_labels(
    canvas: Image.Image, index_map: np.ndarray, texts: Sequence[str], colors: Sequence[Color]
) -> None:
    draw, style = ImageDraw.Draw(canvas), TextStyle(canvas.size)
    corners = place_labels(index_map, [style.size_of(text) for text in texts])
    for corner, text, color in zip(corners, texts, colors, strict=True):
        if corner is not None:
            style.write(draw, corner, text, color)

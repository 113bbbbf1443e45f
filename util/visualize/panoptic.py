"""Pictures of panoptic maps: drawn over one image, and predictions beside truth on a sheet."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from util.visualize.contact_sheet import (
    contact_sheet,
    count,
    fit_column,
    save_image,
    with_caption,
)
from util.visualize.drawing import (
    Colour,
    TextStyle,
    enlarged,
    line_width,
    object_colour,
    ranks_within,
    resize_nearest,
    stuff_colour,
    with_scores,
)
from util.visualize.masks import paint_segments, place_names

SegmentInfo = Mapping[str, Any]
Names = Mapping[int, str]


class PanopticSample(NamedTuple):
    """An image with what its panoptic map should be and what was predicted.

    Attributes:
        image: of any mode, or a function that reads it when its turn has come.
        truth_map: int (H, W) of segment ids.
        truth_segments: as `draw_panoptic` takes them.
        predicted_map: int (H, W) of segment ids.
        predicted_segments: as `draw_panoptic` takes them.
        names: of the categories, by id.
        caption: which image it is.
    """

    image: Image.Image | Callable[[], Image.Image]
    truth_map: np.ndarray
    truth_segments: Sequence[SegmentInfo]
    predicted_map: np.ndarray
    predicted_segments: Sequence[SegmentInfo]
    names: Names
    caption: str


def draw_panoptic(
    image: Image.Image, id_map: np.ndarray, segments: Sequence[SegmentInfo], names: Names
) -> Image.Image:
    """Draws a panoptic map over a copy of an image.

    Things are bright, those of one class in different shades of its hue; stuff is pale. Names, with
    scores where there are any, stand inside the segments that are large enough to carry them.

    Args:
        image: stays as it is.
        id_map: int (H, W) segment ids, at the size of ``image``. Pixels with an id that
            ``segments`` does not list are void and left as they are.
        segments: dicts with ``id``, ``category_id`` and, each optional, ``isthing`` (a segment
            without it is drawn as a thing) and ``score`` in [0, 1].
        names: of the categories, by id.

    Returns:
        An RGB image of the same size, or enlarged by a whole factor where the text would not be
        legible otherwise.

    Raises:
        ValueError: image and map differ in size.
    """
    if id_map.shape != (image.height, image.width):
        raise ValueError(
            f"expected a map of {image.height} x {image.width} (height x width) ids like the "
            f"image, got {' x '.join(map(str, id_map.shape))}"
        )
    picture = enlarged(image)
    index_map = resize_nearest(_index_map(id_map, segments), picture.size)
    labels = [names.get(s["category_id"], f"class {s['category_id']}") for s in segments]
    colours = _colours(index_map, segments, labels)
    picture = paint_segments(picture, index_map, colours, line_width(picture))
    texts = with_scores(labels, [segment.get("score") for segment in segments])
    _write_names(picture, index_map, texts, colours)
    return picture


def save_panoptic_samples(samples: Iterable[PanopticSample], path: str | Path) -> None:
    """Saves a picture with a row for each image: panoptic truth on the left, prediction right.

    Args:
        samples: taken one at a time, so that a generator keeps one image in memory. Large ones are
            shrunk to the width of a column. Maps may differ from their image in size.
        path: the picture to write, ending in .png, .jpg or another format of Pillow. Without any
            sample nothing is written.

    Raises:
        UserError: Pillow knows no format with that ending.
    """
    rows = [_draw_row(sample) for sample in samples]
    if rows:
        save_image(contact_sheet(rows), path)


def _draw_row(sample: PanopticSample) -> tuple[Image.Image, Image.Image]:
    image = fit_column(sample.image() if callable(sample.image) else sample.image)

    def draw(id_map: np.ndarray, segments: Sequence[SegmentInfo], what: str) -> Image.Image:
        fitted = resize_nearest(id_map, image.size)
        picture = draw_panoptic(image, fitted, segments, sample.names)
        return with_caption(picture, f"{what}, {count(len(segments), 'segment')}")

    return (
        draw(sample.truth_map, sample.truth_segments, f"{sample.caption}: ground truth"),
        draw(sample.predicted_map, sample.predicted_segments, "prediction"),
    )


def _index_map(id_map: np.ndarray, segments: Sequence[SegmentInfo]) -> np.ndarray:
    """The place in ``segments`` of the id at each pixel, -1 where it is not among them."""
    ids, inverse = np.unique(id_map, return_inverse=True)
    index_of = {segment["id"]: index for index, segment in enumerate(segments)}
    indices = np.array([index_of.get(segment_id, -1) for segment_id in ids.tolist()])
    return indices[inverse].reshape(id_map.shape)


def _colours(
    index_map: np.ndarray, segments: Sequence[SegmentInfo], labels: Sequence[str]
) -> list[Colour]:
    """A shade for each segment; from left to right, so that neighbours of one class differ."""
    ranks = ranks_within(labels, _mean_columns(index_map, len(segments)))
    return [
        object_colour(label, rank) if segment.get("isthing", True) else stuff_colour(label)
        for segment, label, rank in zip(segments, labels, ranks, strict=True)
    ]


def _mean_columns(index_map: np.ndarray, num_segments: int) -> list[float]:
    """The mean x of the pixels of each segment, 0 for one without pixels."""
    inside = index_map >= 0
    indices, columns = index_map[inside], np.nonzero(inside)[1]
    sums = np.bincount(indices, weights=columns, minlength=num_segments)
    areas = np.bincount(indices, minlength=num_segments)
    means: list[float] = (sums / areas.clip(1)).tolist()
    return means


def _write_names(
    picture: Image.Image, index_map: np.ndarray, texts: Sequence[str], colours: Sequence[Colour]
) -> None:
    draw, style = ImageDraw.Draw(picture), TextStyle(picture.size)
    corners = place_names(index_map, [style.size_of(text) for text in texts])
    for corner, text, colour in zip(corners, texts, colours, strict=True):
        if corner is not None:
            style.write(draw, corner, text, colour)

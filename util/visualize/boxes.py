"""Boxes, with or without masks, drawn with their names on one image."""

from collections.abc import Iterable, Iterator, Sequence, Sized

import numpy as np
from PIL import Image, ImageDraw

from util.visualize.drawing import (
    Colour,
    RectangleXYXY,
    TextStyle,
    class_colour,
    enlarged,
    enlargement,
    line_width,
    object_colour,
    ranks_within,
    resize_nearest,
    with_scores,
)
from util.visualize.masks import paint_masks

BoxXYXY = Sequence[float]
SizeWH = tuple[float, float]


def draw_boxes(
    image: Image.Image,
    boxes_xyxy: Sequence[BoxXYXY],
    labels: Sequence[str],
    scores: Sequence[float] | None = None,
    masks: Sequence[np.ndarray] | np.ndarray | None = None,
) -> Image.Image:
    """Draws labelled boxes on a copy of an image, each class in a colour of its own.

    With masks, each object is filled half-transparently and outlined, and the objects of a class
    differ in shade, from left to right, so that they can be told apart where they touch.

    Args:
        image: stays as it is.
        boxes_xyxy: [N] corners in pixels of ``image``; parts outside are cut off.
        labels: [N] class names.
        scores: [N] in [0, 1], shown behind the names; None shows names only.
        masks: (N, H, W) at the size of ``image``, not 0 inside; None shows boxes only.

    Returns:
        An RGB image of the same size, or enlarged by a whole factor where the text would not be
        legible otherwise.

    Raises:
        ValueError: boxes, labels, scores and masks are not of one length, or a mask is not of the
            size of the image.
    """
    _check_lengths(len(boxes_xyxy), labels=labels, scores=scores, masks=masks)
    factor = enlargement(image)
    picture = enlarged(image)
    outlines = [_inside(box, factor, picture.size) for box in boxes_xyxy]
    if masks is None:
        colours = [class_colour(label) for label in labels]
    else:
        _check_sizes(masks, image)
        centres = [left + right for left, _, right, _ in outlines]
        ranks = ranks_within(labels, centres)
        colours = [object_colour(label, r) for label, r in zip(labels, ranks, strict=True)]
        grown = (resize_nearest(mask, picture.size) for mask in masks)
        picture = paint_masks(picture, grown, colours, line_width(picture))
    texts = labels if scores is None else with_scores(labels, scores)
    _draw_outlines(picture, outlines, texts, colours)
    return picture


def _check_lengths(num_boxes: int, **others: Sized | None) -> None:
    given = {name: len(values) for name, values in others.items() if values is not None}
    if any(length != num_boxes for length in given.values()):
        lengths = ", ".join(f"{length} {name}" for name, length in given.items())
        raise ValueError(
            f"expected as many labels, scores and masks as boxes ({num_boxes}), got {lengths}"
        )


def _check_sizes(masks: Iterable[np.ndarray], image: Image.Image) -> None:
    for index, mask in enumerate(masks):
        if mask.shape != (image.height, image.width):
            raise ValueError(
                f"mask {index} is of shape {mask.shape}, the image of height and width "
                f"{(image.height, image.width)}"
            )


def _inside(box_xyxy: BoxXYXY, factor: int, size_wh: tuple[int, int]) -> RectangleXYXY:
    """The box in pixels of the enlarged picture, cut to it, its corners in order."""
    x0, y0, x1, y1 = (float(value) * factor for value in box_xyxy)
    right, bottom = size_wh[0] - 1, size_wh[1] - 1
    left, top = min(max(min(x0, x1), 0), right), min(max(min(y0, y1), 0), bottom)
    return left, top, min(max(x0, x1, left), right), min(max(y0, y1, top), bottom)


def _draw_outlines(
    picture: Image.Image,
    outlines: Sequence[RectangleXYXY],
    texts: Sequence[str],
    colours: Sequence[Colour],
) -> None:
    """Boxes with their names, the last ones on top and with the first choice of place."""
    draw, style = ImageDraw.Draw(picture), TextStyle(picture.size)
    for outline, colour in zip(outlines, colours, strict=True):
        draw.rectangle(outline, outline=colour, width=line_width(picture))
    sizes = [style.size_of(text) for text in texts]
    grounds = list(_place_names(outlines[::-1], sizes[::-1], picture.size))[::-1]
    # Names come after all outlines, so that no outline crosses a name.
    for (left, top, _, _), text, colour in zip(grounds, texts, colours, strict=True):
        style.write(draw, (left, top), text, colour)


def _place_names(
    outlines: Sequence[RectangleXYXY], sizes_wh: Sequence[SizeWH], image_wh: tuple[int, int]
) -> Iterator[RectangleXYXY]:
    """A ground for each box's name, where possible over none of those before it."""
    taken: list[RectangleXYXY] = []
    for outline, size in zip(outlines, sizes_wh, strict=True):
        places = list(_places_for_name(outline, size, image_wh))
        free = (place for place in places if not any(_overlap(place, other) for other in taken))
        taken.append(next(free, places[0]))
        yield taken[-1]


def _places_for_name(
    outline: RectangleXYXY, size_wh: SizeWH, image_wh: tuple[int, int]
) -> Iterator[RectangleXYXY]:
    """Where a name may stand, best first: above its box where there is room, inside, below."""
    width, height = size_wh
    left = max(0, min(outline[0], image_wh[0] - width))
    above, inside, below = outline[1] - height, outline[1], outline[3]
    for top in (above, inside, below):
        if top >= 0 and (top == inside or top + height < image_wh[1]):
            yield left, top, left + width, top + height


def _overlap(one: RectangleXYXY, other: RectangleXYXY) -> bool:
    across = one[0] < other[2] and other[0] < one[2]
    return across and one[1] < other[3] and other[1] < one[3]

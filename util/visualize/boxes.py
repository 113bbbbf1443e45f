"""Draw boxes, with or without masks, and their labels on an image."""

from collections.abc import Iterable, Iterator, Sequence, Sized

import numpy as np
from PIL import Image, ImageDraw

from util.visualize.drawing import (
    Color,
    RectangleXYXY,
    TextStyle,
    class_color,
    dashed_rectangle,
    enlarged,
    enlargement,
    line_width,
    object_color,
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
    dashed: Sequence[bool] | None = None,
) -> Image.Image:
    """Draw labeled boxes on a copy of an image, with one color per class.

    Labels do not overlap: the label of the last box is placed first, and a label without space at
    or inside its box is omitted. Masks are drawn half-transparent with an outline; neighboring
    objects of a class, from left to right, have different shades.

    Args:
        image: not changed.
        boxes_xyxy: [N] in pixels of ``image``; clipped to the image.
        labels: [N] class names.
        scores: [N] in [0, 1], shown after the labels; None: labels only.
        masks: (N, H, W) at the size of ``image``, non-zero inside; None: boxes only.
        dashed: [N] whether a box is drawn with dashes and "!" before its label; None: none is.

    Returns:
        an RGB image of the same size; small images are enlarged by an integer factor, so that text
        is legible.

    Raises:
        ValueError: if boxes, labels, scores, masks and ``dashed`` differ in length, or a mask and
            the image differ in size.
    """
    _check_lengths(len(boxes_xyxy), labels=labels, scores=scores, masks=masks, dashed=dashed)
    factor = enlargement(image)
    canvas = enlarged(image)
    outlines = [_clipped(box, factor, canvas.size) for box in boxes_xyxy]
    if masks is None:
        colors = [class_color(label) for label in labels]
    else:
        _check_sizes(masks, image)
        centers = [left + right for left, _, right, _ in outlines]
        ranks = ranks_within(labels, centers)
        colors = [object_color(label, r) for label, r in zip(labels, ranks, strict=True)]
        enlarged_masks = (resize_nearest(mask, canvas.size) for mask in masks)
        canvas = paint_masks(canvas, enlarged_masks, colors, line_width(canvas))
    texts = labels if scores is None else with_scores(labels, scores)
    _draw_outlines(canvas, outlines, texts, colors, dashed or [False] * len(texts))
    return canvas


def _check_lengths(num_boxes: int, **others: Sized | None) -> None:
    given = {name: len(values) for name, values in others.items() if values is not None}
    if any(length != num_boxes for length in given.values()):
        lengths = ", ".join(f"{length} {name}" for name, length in given.items())
        raise ValueError(
            f"expected as many labels, scores, masks and dashed as boxes ({num_boxes}), "
            f"got {lengths}"
        )


def _check_sizes(masks: Iterable[np.ndarray], image: Image.Image) -> None:
    for index, mask in enumerate(masks):
        if mask.shape != (image.height, image.width):
            raise ValueError(
                f"mask {index} has shape {mask.shape}, the image has height and width "
                f"{(image.height, image.width)}"
            )


def _clipped(box_xyxy: BoxXYXY, factor: int, size_wh: tuple[int, int]) -> RectangleXYXY:
    """Scale a box to the enlarged image, clip it, and order its corners."""
    x0, y0, x1, y1 = (float(value) * factor for value in box_xyxy)
    right, bottom = size_wh[0] - 1, size_wh[1] - 1
    left, top = min(max(min(x0, x1), 0), right), min(max(min(y0, y1), 0), bottom)
    return left, top, min(max(x0, x1, left), right), min(max(y0, y1, top), bottom)


def _draw_outlines(
    canvas: Image.Image,
    outlines: Sequence[RectangleXYXY],
    texts: Sequence[str],
    colors: Sequence[Color],
    dashed: Sequence[bool],
) -> None:
    """Draw boxes and labels; the last box is on top and its label is placed first."""
    draw, style, width = ImageDraw.Draw(canvas), TextStyle(canvas.size), line_width(canvas)
    for outline, color, is_dashed in zip(outlines, colors, dashed, strict=True):
        if is_dashed:
            dashed_rectangle(draw, outline, color, width)
        else:
            draw.rectangle(outline, outline=color, width=width)
    texts = [f"! {t}" if is_dashed else t for t, is_dashed in zip(texts, dashed, strict=True)]
    sizes = [style.size_of(text) for text in texts]
    places = list(_place_labels(outlines[::-1], sizes[::-1], canvas.size))[::-1]
    # Labels are drawn after all outlines, so that no outline crosses a label.
    for place, text, color in zip(places, texts, colors, strict=True):
        if place is not None:
            style.write(draw, place[:2], text, color)


def _place_labels(
    outlines: Sequence[RectangleXYXY], sizes_wh: Sequence[SizeWH], image_wh: tuple[int, int]
) -> Iterator[RectangleXYXY | None]:
    """Choose a rectangle for each label, without overlaps; None if there is no space."""
    taken: list[RectangleXYXY] = []
    for outline, size in zip(outlines, sizes_wh, strict=True):
        places = _label_places(outline, size, image_wh)
        place = next((p for p in places if not any(_overlap(p, other) for other in taken)), None)
        if place is not None:
            taken.append(place)
        yield place


def _label_places(
    outline: RectangleXYXY, size_wh: SizeWH, image_wh: tuple[int, int]
) -> Iterator[RectangleXYXY]:
    """Rectangles for a label, best first: above, inside and below its box, flush left, then flush
    right; then next to the box. They are shifted horizontally into the image.
    """
    (width, height), (x0, y0, x1, y1) = size_wh, outline
    at_box = [
        (left, top) for left in (x0, x1 - width) for top in (y0 - height, y0, y1, y1 - height)
    ]
    beside = [(left, top) for top in (y0, y1 - height) for left in (x1, x0 - width)]
    for left, top in (*at_box, *beside):
        if top >= 0 and (top + height < image_wh[1] or top == 0):
            left = max(0, min(left, image_wh[0] - width))
            yield left, top, left + width, top + height


def _overlap(a: RectangleXYXY, b: RectangleXYXY) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

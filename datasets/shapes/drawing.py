"""Draw the images of the shapes dataset: colored shapes on a textured background, and their masks.

A level function approximates the signed distance of a point from the outline of a shape, negative
inside. Its value at a pixel center gives the share of the pixel that the shape covers, between 0
and 1 at the outline. The mask has the pixels that are covered by more than half.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from datasets.shapes.paint import (
    STUFF_CLASSES,
    Array,
    Window,
    apply_light,
    distinct_color,
    grid,
    nearby_color,
    random_light,
    textured,
    turned_grid,
    uniform,
    unit_axis,
    whole,
)

LevelFunction = Callable[[Array, Array], Array]

MIN_IMAGE_SIZE = 64  # pixels; in smaller images shapes are not recognizable
MAX_OBJECTS = 5
MIN_SIDE = 0.15  # fraction of the image side, for the sides of the full and of the visible box
MAX_SIDE = 0.60
MIN_VISIBLE_SHARE = 0.5  # fraction of an object's pixels
MAX_TURN_DEGREES = 20.0  # rotation in either direction
MIN_STRETCH = 0.8  # smallest horizontal scale of a shape
# The first color of a background is dark; its strongest channel (RGB index) depends on its class.
# The second color is near the first.
LEADING_CHANNELS = {"stripes": 2, "checks": 1, "mosaic": 0}
LEADING_LEVEL = (0.2, 0.3)
OTHER_LEVEL = (0.0, 0.1)  # of the two other channels
BACKGROUND_CONTRAST = (0.10, 0.20)  # Euclidean distance of the two colors, RGB in [0, 1]
FILL_CONTRAST = (0.0, 0.10)  # the same for the two colors of an object's texture
TWO_BACKGROUNDS_PROBABILITY = 0.5
MAX_HORIZON = 0.2  # distance of the line between two backgrounds from the center / image side
PLACING_ATTEMPTS = 50


@dataclass(frozen=True)
class Segment:
    """A thing or a region of background in a scene.

    Attributes:
        class_name: one of `THING_CLASSES` or `STUFF_CLASSES`.
        mask: bool (size, size), visible pixels.
        visible_share: share of the object's pixels that are visible, in (0, 1]; 1 for stuff.
    """

    class_name: str
    mask: Array
    visible_share: float


@dataclass(frozen=True)
class Scene:
    """A drawn image and its segments. Each pixel is in exactly one segment.

    Attributes:
        image: uint8 (size, size, 3), RGB.
        things: 1 to 5 segments in drawing order (later segments cover earlier segments).
        stuff: 1 or 2 segments of different classes.
    """

    image: Array
    things: list[Segment]
    stuff: list[Segment]


@dataclass(frozen=True)
class _Placed:
    """A placed shape: its coverage of a window of the image, float (height, width) in [0, 1]."""

    class_name: str
    window: Window
    coverage: Array

    @cached_property
    def mask(self) -> Array:
        """Pixels that the shape covers by more than half, bool (height, width)."""
        return self.coverage > 0.5

    @cached_property
    def area(self) -> int:
        """Number of pixels in the mask."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def sides(self) -> tuple[int, int]:
        """Width and height of the mask's tight box in pixels."""
        return tight_box(self.mask)[2:]


def draw_scene(rng: np.random.Generator, image_size: int) -> Scene:
    """Draw a random scene.

    Class, position, color and texture of an object are independent. Objects are entirely inside the
    image; at least `MIN_VISIBLE_SHARE` of each object is visible.

    Args:
        rng: random generator; equal states give equal scenes.
        image_size: side of the square image in pixels, at least `MIN_IMAGE_SIZE`.

    Raises:
        ValueError: if ``image_size`` is too small.
    """
    if image_size < MIN_IMAGE_SIZE:
        raise ValueError(f"image_size must be at least {MIN_IMAGE_SIZE} pixels, got {image_size}")
    canvas, backgrounds, palette = _draw_backgrounds(rng, image_size)
    placed, labels = _place_objects(rng, image_size)
    for item in placed:
        palette.append(distinct_color(rng, palette))
        _paint(rng, canvas, item, palette[-1])
    things = []
    for number, item in enumerate(placed, start=1):
        mask = labels == number
        things.append(Segment(item.class_name, mask, int(np.count_nonzero(mask)) / item.area))
    stuff = [Segment(name, mask & (labels == 0), 1.0) for name, mask in backgrounds]
    return Scene(
        apply_light(canvas, random_light(rng, image_size)),
        things,
        [segment for segment in stuff if segment.mask.any()],
    )


def tight_box(mask: Array) -> tuple[int, int, int, int]:
    """Return the bounding box of a mask.

    Args:
        mask: bool (height, width) with at least one true pixel.

    Returns:
        (x, y, width, height) in pixels, in COCO's order.

    Raises:
        ValueError: if the mask is empty.
    """
    if not mask.any():
        raise ValueError("an empty mask has no box")
    left, width = _extent(np.logical_or.reduce(mask, axis=0))
    top, height = _extent(np.logical_or.reduce(mask, axis=1))
    return left, top, width, height


def _extent(occupied: Array) -> tuple[int, int]:
    """Start and length of the smallest range with all true entries of bool (size,)."""
    start = int(occupied.argmax())
    return start, len(occupied) - int(occupied[::-1].argmax()) - start


# ---- level functions: negative inside, in units of the circumscribed circle


def _ellipse(u: Array, v: Array) -> Array:
    return np.sqrt(u * u + v * v) - 1


def _rectangle(u: Array, v: Array) -> Array:
    return np.maximum(abs(u), abs(v)) - math.sqrt(0.5)


def _triangle(u: Array, v: Array) -> Array:
    cosine, sine = unit_axis(30)
    return np.maximum(abs(u) * cosine - v * sine, v) - 0.5


def _cross(u: Array, v: Array) -> Array:
    arm, half_width = 0.95, 0.3
    across, along = np.minimum(abs(u), abs(v)), np.maximum(abs(u), abs(v))
    return np.maximum(across - half_width, along - arm)


def _star(u: Array, v: Array) -> Array:
    """Pentagram: all points on the inner side of at least four of its five lines."""
    largest = second = np.full_like(u, -np.inf)
    for tip in range(5):
        cosine, sine = unit_axis(72 * tip - 90)
        along_tip = u * cosine + v * sine
        second = np.maximum(second, np.minimum(largest, along_tip))
        largest = np.maximum(largest, along_tip)
    return second - unit_axis(72)[0]


_SHAPES: dict[str, LevelFunction] = {
    "ellipse": _ellipse,
    "rectangle": _rectangle,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
}
THING_CLASSES = tuple(_SHAPES)


def _place_objects(rng: np.random.Generator, image_size: int) -> tuple[list[_Placed], Array]:
    """Place a random number of shapes; a shape for which there is no space is dropped.

    Returns:
        the shapes in drawing order; and uint8 (size, size), the number of the visible shape at each
        pixel, from 1, or 0 for background.
    """
    labels = np.zeros((image_size, image_size), dtype=np.uint8)
    placed: list[_Placed] = []
    for _ in range(int(rng.integers(1, MAX_OBJECTS + 1))):
        class_name = THING_CLASSES[int(rng.integers(len(THING_CLASSES)))]
        for _ in range(PLACING_ATTEMPTS):
            tried = [*placed, _random_shape(rng, class_name, image_size)]
            tried_labels = labels.copy()
            tried_labels[tried[-1].window][tried[-1].mask] = len(tried)
            if _all_readable(tried, tried_labels):
                placed, labels = tried, tried_labels
                break
    return placed, labels


def _random_shape(rng: np.random.Generator, class_name: str, image_size: int) -> _Placed:
    """Return a shape of random position, size, rotation and stretch, entirely inside the image."""
    # The larger of two random sizes, because small shapes are placed more often.
    side = max(uniform(rng, MIN_SIDE, MAX_SIDE), uniform(rng, MIN_SIDE, MAX_SIDE))
    radius = side * image_size / 2
    center_x, center_y = (uniform(rng, radius, image_size - radius) for _ in range(2))
    cosine, sine = unit_axis(uniform(rng, -MAX_TURN_DEGREES, MAX_TURN_DEGREES))
    stretch = uniform(rng, MIN_STRETCH, 1)
    window = _window(center_y, radius, image_size), _window(center_x, radius, image_size)
    x, y = grid(window, center_x, center_y, (cosine, sine))
    level = _SHAPES[class_name](x / (radius * stretch), y / radius)
    return _Placed(class_name, window, np.clip(0.5 - level * radius, 0, 1))


def _window(center: float, radius: float, image_size: int) -> slice:
    return slice(max(math.floor(center - radius), 0), min(math.ceil(center + radius), image_size))


def _all_readable(placed: list[_Placed], labels: Array) -> bool:
    """Whether enough of each shape is visible, and all box sides are within the limits."""
    low, high = MIN_SIDE * len(labels), MAX_SIDE * len(labels)
    for number, item in enumerate(placed, start=1):
        visible = labels[item.window] == number
        if np.count_nonzero(visible) < MIN_VISIBLE_SHARE * item.area:
            return False
        sides = item.sides + tight_box(visible)[2:]
        if min(sides) < low or max(sides) > high:
            return False
    return True


def _paint(rng: np.random.Generator, canvas: Array, item: _Placed, color: Array) -> None:
    """Blend a textured shape into the canvas, float (3, size, size), in place."""
    texture = STUFF_CLASSES[int(rng.integers(len(STUFF_CLASSES)))]
    second = nearby_color(rng, color, FILL_CONTRAST)
    fill = textured(rng, texture, (color, second), canvas.shape[-1], item.window)
    under = canvas[:, *item.window]
    under += (fill - under) * item.coverage


def _draw_backgrounds(
    rng: np.random.Generator, image_size: int
) -> tuple[Array, list[tuple[str, Array]], list[Array]]:
    """Draw one background, or two separated by a straight line.

    Returns:
        canvas, float (3, size, size) in [0, 1]; class and mask, bool (size, size), of each
        background; their colors.
    """
    first = int(rng.integers(len(STUFF_CLASSES)))
    canvas, palette = _background(rng, STUFF_CLASSES[first], image_size)
    if rng.random() >= TWO_BACKGROUNDS_PROBABILITY:
        everywhere = np.ones((image_size, image_size), dtype=bool)
        return canvas, [(STUFF_CLASSES[first], everywhere)], palette
    second = (first + int(rng.integers(1, len(STUFF_CLASSES)))) % len(STUFF_CLASSES)
    canvas_beyond, palette_beyond = _background(rng, STUFF_CLASSES[second], image_size)
    across, _ = turned_grid(rng, image_size, whole(image_size), 180)
    beyond = across > np.float32(uniform(rng, -MAX_HORIZON, MAX_HORIZON) * image_size)
    backgrounds = [(STUFF_CLASSES[first], ~beyond), (STUFF_CLASSES[second], beyond)]
    np.copyto(canvas, canvas_beyond, where=beyond)
    return canvas, backgrounds, palette + palette_beyond


def _background(
    rng: np.random.Generator, texture: str, image_size: int
) -> tuple[Array, list[Array]]:
    """Return a canvas of one texture, and its two colors."""
    levels = [uniform(rng, *OTHER_LEVEL) for _ in range(3)]
    levels[LEADING_CHANNELS[texture]] = uniform(rng, *LEADING_LEVEL)
    color = np.array(levels)
    second = nearby_color(rng, color, BACKGROUND_CONTRAST)
    canvas = textured(rng, texture, (color, second), image_size, whole(image_size))
    return canvas, [color, second]

"""Colors, textures, light and coordinates of the shapes dataset.

To give the same pixels on all machines, random numbers come only from ``Generator.random`` and
``Generator.integers``, and arrays use only exactly rounded arithmetic (no sine or power). Colors
are float (3,) RGB in [0, 1], canvases float32 (3, height, width).
"""

import math
from collections.abc import Callable

import numpy as np

Array = np.ndarray
Window = tuple[slice, slice]  # rows and columns of an image
TextureFunction = Callable[[np.random.Generator, Array, Array], Array]

MIN_OBJECT_LEVEL = 0.3  # minimum of each color channel: objects are lighter than the background
MIN_COLOR_GAP = 0.45  # Euclidean distance between an object's color and all others
TEXTURE_CELL = (0.030, 0.070)  # fraction of the image side: half a stripe period, check, or tile
MAX_SHADE = 0.2  # maximum loss of light towards one side of the image
COLOR_CANDIDATES = 32


# ---- random numbers


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number uniformly from [low, high)."""
    return low + (high - low) * float(rng.random())


def unit_axis(turn_degrees: float) -> tuple[float, float]:
    """Cosine and sine, rounded because their last digits differ between machines."""
    angle = math.radians(turn_degrees)
    return round(math.cos(angle), 9), round(math.sin(angle), 9)


def distinct_color(rng: np.random.Generator, palette: list[Array]) -> Array:
    """Draw a color at least `MIN_COLOR_GAP` from all others, else the most distant candidate.

    Args:
        palette: colors to differ from, at least one.

    Returns:
        float (3,) in [0, 1].
    """
    candidates = MIN_OBJECT_LEVEL + (1 - MIN_OBJECT_LEVEL) * rng.random((COLOR_CANDIDATES, 3))
    offsets = candidates[:, None] - np.stack(palette)
    gaps = np.sqrt((offsets * offsets).sum(axis=-1)).min(axis=1)
    return candidates[np.argmax(np.minimum(gaps, MIN_COLOR_GAP))]


def nearby_color(rng: np.random.Generator, color: Array, contrast: tuple[float, float]) -> Array:
    """Draw a color near another color.

    Args:
        color: float (3,) in [0, 1].
        contrast: minimum and maximum Euclidean distance, below 0.5.

    Returns:
        float (3,) in [0, 1].
    """
    distance = uniform(rng, *contrast)
    while True:
        direction = rng.random(3) - 0.5
        length = math.sqrt(float((direction * direction).sum()))
        if length > 0.1:
            second = color + direction * (distance / length)
            if second.min() >= 0 and second.max() <= 1:
                return second


# ---- textures: weight of the second of two colors, in [0, 1]


def _stripes(rng: np.random.Generator, u: Array, v: Array) -> Array:
    return _bands(u)


def _checks(rng: np.random.Generator, u: Array, v: Array) -> Array:
    across, along = _bands(u), _bands(v)
    return across + along - 2 * across * along


def _mosaic(rng: np.random.Generator, u: Array, v: Array) -> Array:
    column, row = (np.floor(axis - axis.min()).astype(np.int64) for axis in (u, v))
    tiles = rng.random((int(row.max()) + 1, int(column.max()) + 1)).astype(np.float32)
    return tiles[row, column]


def _bands(axis: Array) -> Array:
    """Bands: 1 at even and 0 at odd integers, with linear transitions."""
    phase = axis * 0.5
    phase -= np.floor(phase)
    phase -= 0.5
    np.abs(phase, out=phase)
    phase *= 8
    phase -= 1.5
    return np.clip(phase, 0, 1, out=phase)


_TEXTURES: dict[str, TextureFunction] = {"stripes": _stripes, "checks": _checks, "mosaic": _mosaic}
STUFF_CLASSES = tuple(_TEXTURES)


def textured(
    rng: np.random.Generator,
    texture: str,
    colors: tuple[Array, Array],
    image_size: int,
    window: Window,
) -> Array:
    """Paint a window with a texture of random cell size and rotation.

    Args:
        texture: one of `STUFF_CLASSES`.
        colors: two colors, float (3,) each.
        image_size: side of the image in pixels.
        window: rows and columns to paint.

    Returns:
        float32 (3, height, width) in [0, 1].
    """
    cell = uniform(rng, *TEXTURE_CELL) * image_size
    u, v = turned_grid(rng, image_size, window, 90)
    weight = _TEXTURES[texture](rng, u / np.float32(cell), v / np.float32(cell))
    first, second = (color.astype(np.float32)[:, None, None] for color in colors)
    mixed = (second - first) * weight
    mixed += first
    return mixed


def apply_light(canvas: Array, light: Array) -> Array:
    """Multiply a canvas with the light and convert it to an 8-bit image.

    Args:
        canvas: float32 (3, size, size) in [0, 1]; overwritten.
        light: float32 (size, size) in [0, 1], factor of each pixel.

    Returns:
        uint8 (size, size, 3), RGB.
    """
    canvas *= light * np.float32(255)
    np.rint(canvas, out=canvas)
    return np.ascontiguousarray(canvas.astype(np.uint8).transpose(1, 2, 0))


def random_light(rng: np.random.Generator, image_size: int) -> Array:
    """Light with a gradient in a random direction, float32 (size, size) in [1 - MAX_SHADE, 1]."""
    across, _ = turned_grid(rng, image_size, whole(image_size), 180)
    depth = across / np.float32(image_size * math.sqrt(2)) + np.float32(0.5)
    return 1 - np.float32(uniform(rng, 0, MAX_SHADE)) * depth


# ---- coordinates


def whole(image_size: int) -> Window:
    """Window of a whole square image."""
    return slice(0, image_size), slice(0, image_size)


def turned_grid(
    rng: np.random.Generator, image_size: int, window: Window, max_turn_degrees: float
) -> tuple[Array, Array]:
    """Coordinates of a window around the center of the image, randomly rotated.

    Args:
        image_size: side of the image in pixels.
        window: rows and columns of the image.
        max_turn_degrees: maximum rotation in either direction.

    Returns:
        see `grid`.
    """
    turn = unit_axis(uniform(rng, -max_turn_degrees, max_turn_degrees))
    return grid(window, image_size / 2, image_size / 2, turn)


def grid(
    window: Window, center_x: float, center_y: float, turn: tuple[float, float]
) -> tuple[Array, Array]:
    """Coordinates of the window's pixel centers in a rotated frame.

    Args:
        window: rows and columns of the image.
        center_x: origin of the frame in pixels.
        center_y: origin of the frame in pixels.
        turn: cosine and sine of the rotation.

    Returns:
        two float32 arrays (height, width) in pixels.
    """
    rows, columns = window
    x = np.arange(columns.stop - columns.start, dtype=np.float32)
    y = np.arange(rows.stop - rows.start, dtype=np.float32)[:, None]
    x += np.float32(columns.start + 0.5 - center_x)
    y += np.float32(rows.start + 0.5 - center_y)
    cosine, sine = np.float32(turn[0]), np.float32(turn[1])
    return x * cosine + y * sine, y * cosine - x * sine

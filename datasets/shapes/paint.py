"""Colours, textures, light and coordinates of the embedded data set's pictures.

Random numbers come from ``Generator.random`` and ``Generator.integers`` alone, and arrays meet only
exactly rounded arithmetic (no array sine or power): that keeps the pixels of a seed the same on
every machine. Colours are float [3] of RGB in [0, 1], canvases float32 [3, height, width].
"""

import math
from collections.abc import Callable

import numpy as np

Array = np.ndarray
Window = tuple[slice, slice]  # rows and columns of an image
TextureFunction = Callable[[np.random.Generator, Array, Array], Array]

MIN_OBJECT_LEVEL = 0.3  # of each colour channel: objects are lighter than the ground
MIN_COLOUR_GAP = 0.45  # between an object and everything around it; Euclidean, of RGB in [0, 1]
TEXTURE_CELL = (0.030, 0.070)  # of the image side: half a stripe's period, a check, a mosaic stone
MAX_SHADE = 0.2  # the light falls off by at most this share towards one side of the image
COLOUR_CANDIDATES = 32


# ---- chance


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number drawn evenly from [low, high)."""
    return low + (high - low) * float(rng.random())


def unit_axis(turn_degrees: float) -> tuple[float, float]:
    """Cosine and sine, rounded: the last bits of libm differ between machines."""
    angle = math.radians(turn_degrees)
    return round(math.cos(angle), 9), round(math.sin(angle), 9)


def distinct_colour(rng: np.random.Generator, palette: list[Array]) -> Array:
    """The first of some random colours that keeps `MIN_COLOUR_GAP` from all, else the farthest.

    Args:
        rng: source of chance.
        palette: the colours to stay away from, at least one.

    Returns:
        float [3] in [0, 1].
    """
    candidates = MIN_OBJECT_LEVEL + (1 - MIN_OBJECT_LEVEL) * rng.random((COLOUR_CANDIDATES, 3))
    offsets = candidates[:, None] - np.stack(palette)
    gaps = np.sqrt((offsets * offsets).sum(axis=-1)).min(axis=1)
    return candidates[np.argmax(np.minimum(gaps, MIN_COLOUR_GAP))]


def nearby_colour(rng: np.random.Generator, colour: Array, contrast: tuple[float, float]) -> Array:
    """A random colour not far from another.

    Args:
        rng: source of chance.
        colour: float [3] in [0, 1].
        contrast: smallest and largest Euclidean distance from it, below 0.5 so that there is room.

    Returns:
        float [3] in [0, 1].
    """
    distance = uniform(rng, *contrast)
    while True:
        direction = rng.random(3) - 0.5
        length = math.sqrt(float((direction * direction).sum()))
        if length > 0.1:
            second = colour + direction * (distance / length)
            if second.min() >= 0 and second.max() <= 1:
                return second


# ---- textures: the weight of the second of two colours, in [0, 1]


def _stripes(rng: np.random.Generator, u: Array, v: Array) -> Array:
    return _bands(u)


def _checks(rng: np.random.Generator, u: Array, v: Array) -> Array:
    across, along = _bands(u), _bands(v)
    return across + along - 2 * across * along


def _mosaic(rng: np.random.Generator, u: Array, v: Array) -> Array:
    column, row = (np.floor(axis - axis.min()).astype(np.int64) for axis in (u, v))
    stones = rng.random((int(row.max()) + 1, int(column.max()) + 1)).astype(np.float32)
    return stones[row, column]


def _bands(axis: Array) -> Array:
    """Bands around the integers, 1 at the even and 0 at the odd ones, with slopes in between."""
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
    colours: tuple[Array, Array],
    image_size: int,
    window: Window,
) -> Array:
    """Paint a window with a texture of random cell size and turn.

    Args:
        rng: source of chance.
        texture: one of `STUFF_CLASSES`.
        colours: the two colours, float [3] each.
        image_size: side of the image in pixels; cells are sized by it.
        window: rows and columns to paint.

    Returns:
        float32 [3, height, width] of the window, in [0, 1].
    """
    cell = uniform(rng, *TEXTURE_CELL) * image_size
    u, v = turned_grid(rng, image_size, window, 90)
    weight = _TEXTURES[texture](rng, u / np.float32(cell), v / np.float32(cell))
    first, second = (colour.astype(np.float32)[:, None, None] for colour in colours)
    mixed = (second - first) * weight
    mixed += first
    return mixed


def develop(canvas: Array, light: Array) -> Array:
    """Turn a canvas into an image.

    Args:
        canvas: float32 [3, size, size] in [0, 1]; overwritten.
        light: float32 [size, size] in [0, 1], the share of each pixel's colour that is kept.

    Returns:
        uint8 [size, size, 3], RGB.
    """
    canvas *= light * np.float32(255)
    np.rint(canvas, out=canvas)
    return np.ascontiguousarray(canvas.astype(np.uint8).transpose(1, 2, 0))


def random_light(rng: np.random.Generator, image_size: int) -> Array:
    """float32 [size, size] in [1 - MAX_SHADE, 1], falling off evenly in a random direction."""
    across, _ = turned_grid(rng, image_size, whole(image_size), 180)
    depth = across / np.float32(image_size * math.sqrt(2)) + np.float32(0.5)
    return 1 - np.float32(uniform(rng, 0, MAX_SHADE)) * depth


# ---- coordinates


def whole(image_size: int) -> Window:
    """The window that is all of a square image."""
    return slice(0, image_size), slice(0, image_size)


def turned_grid(
    rng: np.random.Generator, image_size: int, window: Window, max_turn_degrees: float
) -> tuple[Array, Array]:
    """`grid` around the middle of the image, turned at random."""
    turn = unit_axis(uniform(rng, -max_turn_degrees, max_turn_degrees))
    return grid(window, image_size / 2, image_size / 2, turn)


def grid(
    window: Window, centre_x: float, centre_y: float, turn: tuple[float, float]
) -> tuple[Array, Array]:
    """Coordinates of the window's pixel centres in a turned frame.

    Args:
        window: rows and columns of the image.
        centre_x: the frame's origin in pixels.
        centre_y: likewise.
        turn: cosine and sine of the frame's turn.

    Returns:
        Two float32 [height, width], in pixels.
    """
    rows, columns = window
    x = np.arange(columns.stop - columns.start, dtype=np.float32)
    y = np.arange(rows.stop - rows.start, dtype=np.float32)[:, None]
    x += np.float32(columns.start + 0.5 - centre_x)
    y += np.float32(rows.start + 0.5 - centre_y)
    cosine, sine = np.float32(turn[0]), np.float32(turn[1])
    return x * cosine + y * sine, y * cosine - x * sine

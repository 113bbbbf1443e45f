"""Masks and segments painted over a picture: half-transparent, outlined, named where they lie."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from util.visualize.drawing import Colour

_OPACITY = 0.5
_BORDER_COLOUR = (20, 20, 20)
_NAME_GRID = 320  # places for names are looked for on a grid with this many steps at most
_SAME_DEPTH = 1e-9
_SHARE_UNDER_NAME = 0.5  # of a name's ground that its segment must fill to carry it


def paint_masks(
    picture: Image.Image, masks: Iterable[np.ndarray], colours: Sequence[Colour], line_width: int
) -> Image.Image:
    """Fills masks half-transparently, each with an outline along the inside of its edge.

    Args:
        picture: RGB, stays as it is.
        masks: [N] of (H, W) at the size of ``picture``, not 0 inside, taken one at a time. Later
            ones lie on top.
        colours: [N].
        line_width: of the outlines, in pixels.

    Returns:
        A picture of the same size.
    """
    pixels = np.array(picture)
    for mask, colour in zip(masks, colours, strict=True):
        window = _bounding_window(mask)
        surrounded = np.pad(mask[window] != 0, 1)
        near_edge = near_border(surrounded, 2 * line_width)[1:-1, 1:-1]
        inside = surrounded[1:-1, 1:-1]
        part = pixels[window]
        part[inside] = _blend(part[inside], colour)
        part[inside & near_edge] = colour
    return Image.fromarray(pixels)


def paint_segments(
    picture: Image.Image,
    index_map: np.ndarray,
    colours: Sequence[Colour],
    line_width: int,
) -> Image.Image:
    """Tints every segment and draws a dark line where one meets another or void.

    Args:
        picture: RGB, stays as it is.
        index_map: int (H, W) index of the segment at each pixel, -1 for void.
        colours: [N], one a segment.
        line_width: of the borders, in pixels.

    Returns:
        A picture of the same size, with the pixels of void unchanged.
    """
    pixels = np.array(picture)
    inside = index_map >= 0
    palette = np.array(colours, dtype=np.float32).reshape(-1, 3)
    pixels[inside] = _blend(pixels[inside], palette[index_map[inside]])
    pixels[inside & near_border(index_map, line_width)] = _BORDER_COLOUR
    return Image.fromarray(pixels)


def near_border(regions: np.ndarray, line_width: int) -> np.ndarray:
    """Pixels on the lines between regions of different values, without the image's border.

    Args:
        regions: (H, W) bool or int.
        line_width: of the lines in pixels, at least 1.

    Returns:
        bool (H, W).
    """
    before, after = line_width // 2, line_width - line_width // 2
    near = np.zeros(regions.shape, dtype=bool)
    for axis in (0, 1):
        lines = np.moveaxis(near, axis, 0)
        values = np.moveaxis(regions, axis, 0)
        across, along = np.nonzero(values[1:] != values[:-1])
        for step in range(1 - before, 1 + after):
            lines[np.clip(across + step, 0, len(lines) - 1), along] = True
    return near


def place_names(
    index_map: np.ndarray, sizes_wh: Sequence[tuple[float, float]]
) -> list[tuple[int, int] | None]:
    """Finds room for the name of each segment: inside it, far from its border, over no other name.

    Args:
        index_map: int (H, W) index of the segment at each pixel, -1 for void.
        sizes_wh: [N] width and height of each segment's name, in pixels.

    Returns:
        [N] left and top corners in pixels, None where the segment is too small for its name. The
        names of large segments find their places first.
    """
    step = -(-max(index_map.shape) // _NAME_GRID)
    grid = index_map[::step, ::step]
    areas = np.bincount(grid[grid >= 0], minlength=len(sizes_wh))
    taken = np.zeros(grid.shape, dtype=bool)
    corners: list[tuple[int, int] | None] = [None] * len(sizes_wh)
    for index in np.argsort(-areas, kind="stable"):
        width, height = (int(size) // step + 1 for size in sizes_wh[index])
        if areas[index] < _SHARE_UNDER_NAME * width * height:
            continue
        place = _deepest_place(grid == index, taken, width, height)
        if place is not None:
            left, top = place
            taken[top : top + height, left : left + width] = True
            corners[index] = (left * step, top * step)
    return corners


def _deepest_place(
    segment: np.ndarray, taken: np.ndarray, width: int, height: int
) -> tuple[int, int] | None:
    """Left and top of the rectangle that lies deepest in a segment, None if it has no room.

    A place is the deeper, the more the segment fills of the windows around it, which have the
    rectangle's proportions and are each twice as large as the one before.
    """
    rows, columns = segment.shape
    depth = _filled_share(segment, width, height)
    room = segment & (depth >= _SHARE_UNDER_NAME) & (_filled_share(taken, width, height) == 0)
    top, left = np.ogrid[:rows, :columns]
    top, left = top - height // 2, left - width // 2
    room &= (top >= 0) & (top + height <= rows) & (left >= 0) & (left + width <= columns)
    if not room.any():
        return None
    factor = 2
    while factor * width < 2 * columns or factor * height < 2 * rows:
        depth = depth + _filled_share(segment, factor * width, factor * height)
        factor *= 2
    deepest = np.argwhere(room & (depth >= depth[room].max() - _SAME_DEPTH))
    # Of many places equally deep the middle one, or that nearest to the middle.
    row, column = deepest[((deepest - deepest.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    return int(column) - width // 2, int(row) - height // 2


def _filled_share(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """How much of the window around each pixel of a mask (H, W) is inside, from 0 to 1."""
    sums = np.pad(mask.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
    rows, columns = (np.arange(size) for size in mask.shape)
    top, bottom = _span(rows - height // 2, height, mask.shape[0])
    left, right = _span(columns - width // 2, width, mask.shape[1])
    inside = sums[bottom][:, right] - sums[top][:, right] - sums[bottom][:, left]
    return (inside + sums[top][:, left]) / (width * height)


def _span(starts: np.ndarray, length: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
    return starts.clip(0, limit), (starts + length).clip(0, limit)


def _blend(pixels: np.ndarray, colour: Colour | np.ndarray) -> np.ndarray:
    """Pixels (N, 3) uint8 seen through a colour (or N of them)."""
    mixed = (1 - _OPACITY) * pixels + _OPACITY * np.asarray(colour, dtype=np.float32)
    return np.rint(mixed).astype(np.uint8)


def _bounding_window(mask: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns from the first to the last that a mask touches; empty if none."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0), slice(0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)

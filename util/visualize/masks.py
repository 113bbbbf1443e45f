"""Draw masks and segments over an image: half-transparent, outlined and labeled."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from util.visualize.drawing import Color

_OPACITY = 0.5
_BORDER_COLOR = (20, 20, 20)
_LABEL_GRID = 320  # maximum number of cells per side of the grid on which labels are placed
_MIN_COVERAGE = 0.5  # minimum fraction of the label's rectangle inside its segment


def paint_masks(
    image: Image.Image, masks: Iterable[np.ndarray], colors: Sequence[Color], line_width: int
) -> Image.Image:
    """Draw masks half-transparently, each with an outline just inside its edge.

    Args:
        image: RGB, not changed.
        masks: [N] of (H, W) at the size of ``image``, non-zero inside; later masks are on top. A
            generator is read one mask at a time.
        colors: [N] RGB.
        line_width: width of the outlines in pixels.

    Returns:
        an image of the same size.
    """
    pixels = np.array(image)
    for mask, color in zip(masks, colors, strict=True):
        window = _bounding_window(mask)
        padded = np.pad(mask[window] != 0, 1)
        near_edge = near_border(padded, 2 * line_width)[1:-1, 1:-1]
        inside = padded[1:-1, 1:-1]
        part = pixels[window]
        part[inside] = _blend(part[inside], color)
        part[inside & near_edge] = color
    return Image.fromarray(pixels)


def paint_segments(
    image: Image.Image,
    index_map: np.ndarray,
    colors: Sequence[Color],
    line_width: int,
) -> Image.Image:
    """Draw segments half-transparently, with dark lines along their borders.

    Args:
        image: RGB, not changed.
        index_map: int (H, W) index of the segment at each pixel, -1 for void.
        colors: [N] RGB, one per segment.
        line_width: width of the borders in pixels.

    Returns:
        an image of the same size; void pixels are unchanged.
    """
    pixels = np.array(image)
    inside = index_map >= 0
    palette = np.array(colors, dtype=np.float32).reshape(-1, 3)
    pixels[inside] = _blend(pixels[inside], palette[index_map[inside]])
    pixels[inside & near_border(index_map, line_width)] = _BORDER_COLOR
    return Image.fromarray(pixels)


def near_border(regions: np.ndarray, line_width: int) -> np.ndarray:
    """Pixels near a border between regions of different values.

    Args:
        regions: (H, W) bool or int.
        line_width: width of the borders in pixels, at least 1.

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


def place_labels(
    index_map: np.ndarray, sizes_wh: Sequence[tuple[float, float]]
) -> list[tuple[int, int] | None]:
    """Place the label of each segment inside it, far from its border, without overlap.

    Labels of large segments are placed first.

    Args:
        index_map: int (H, W) index of the segment at each pixel, -1 for void.
        sizes_wh: [N] width and height of each label in pixels.

    Returns:
        [N] left and top in pixels, or None for a segment that is too small for its label.
    """
    step = -(-max(index_map.shape) // _LABEL_GRID)
    grid = index_map[::step, ::step]
    areas = np.bincount(grid[grid >= 0], minlength=len(sizes_wh))
    taken = np.zeros(grid.shape, dtype=np.uint8)
    corners: list[tuple[int, int] | None] = [None] * len(sizes_wh)
    for index in np.argsort(-areas, kind="stable"):
        width, height = (int(size) // step + 1 for size in sizes_wh[index])
        if areas[index] < _MIN_COVERAGE * width * height:
            continue
        place = _deepest_place(grid == index, taken, width, height)
        if place is not None:
            left, top = place
            taken[top : top + height, left : left + width] = 1
            corners[index] = (left * step, top * step)
    return corners


def _deepest_place(
    segment: np.ndarray, taken: np.ndarray, width: int, height: int
) -> tuple[int, int] | None:
    """Left and top of the free rectangle whose center is farthest from the segment's border."""
    window = (height, width)
    coverage = ndimage.uniform_filter(segment.astype(np.float32), window, mode="constant")
    is_free = ndimage.maximum_filter(taken, window, mode="constant", cval=1) == 0
    candidates = segment & is_free & (coverage >= _MIN_COVERAGE)
    if not candidates.any():
        return None
    depth = ndimage.distance_transform_edt(np.pad(segment, 1))[1:-1, 1:-1] * candidates
    deepest = np.argwhere(depth == depth.max())
    # If several centers are equally deep, take the one nearest to their mean.
    row, column = deepest[((deepest - deepest.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    return int(column) - width // 2, int(row) - height // 2


def _blend(pixels: np.ndarray, color: Color | np.ndarray) -> np.ndarray:
    """Blend pixels (N, 3) uint8 with one color, or with N colors."""
    mixed = (1 - _OPACITY) * pixels + _OPACITY * np.asarray(color, dtype=np.float32)
    return np.rint(mixed).astype(np.uint8)


def _bounding_window(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the bounding box of a mask; empty for an empty mask."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0), slice(0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)

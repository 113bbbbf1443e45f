"""Phone photos made here: a red patch on grey, stored in any EXIF orientation."""

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

UPRIGHT_WH = (48, 32)
PATCH_XYWH = [6.0, 4.0, 12.0, 8.0]  # in the upright image
ORIENTATIONS = range(1, 9)
QUARTER_TURNED = (5, 6, 7, 8)
# What a camera does to the upright image before it stores it with an orientation.
_TO_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def upright_image(size_wh: tuple[int, int] = UPRIGHT_WH) -> Image.Image:
    """A red patch at `PATCH_XYWH`, and a blue one in the lower right corner."""
    image = Image.new("RGB", size_wh, (128, 128, 128))
    x, y, width, height = map(int, PATCH_XYWH)
    image.paste((255, 0, 0), (x, y, x + width, y + height))
    image.paste((0, 0, 255), (size_wh[0] - 8, size_wh[1] - 4, *size_wh))
    return image


def write_photo(path: Path, orientation: int, image: Image.Image | None = None) -> tuple[int, int]:
    """Store the image, by default `upright_image`, with an EXIF orientation; its stored size."""
    image = image or upright_image()
    stored = image.transpose(_TO_STORED[orientation]) if orientation > 1 else image
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}
    stored.save(path, exif=exif, **options)
    return stored.size


def red_share(image: Image.Image, box_xyxy: list[float]) -> float:
    """Share of red pixels in a box."""
    left, top, right, bottom = (round(value) for value in box_xyxy)
    pixels = np.asarray(image).astype(int)[top:bottom, left:right]
    return float(((pixels[..., 0] > 180) & (pixels[..., 2] < 90)).mean())

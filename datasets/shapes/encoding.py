"""Encodings of the shapes dataset: masks as run lengths, images as PNG files."""

import struct
import zlib

import numpy as np


def run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """Encode a mask as COCO's uncompressed RLE.

    Args:
        mask: bool (height, width).

    Returns:
        ``counts``: lengths of alternating runs of 0 and 1, column by column, beginning with 0;
        ``size``: [height, width].
    """
    pixels = mask.ravel(order="F")
    starts = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    edges = np.concatenate(([0], starts, [pixels.size]))
    counts = np.diff(edges).tolist()
    return {"counts": [0, *counts] if pixels[0] else counts, "size": list(mask.shape)}


def encode_png(image: np.ndarray) -> bytes:
    """Encode an RGB image as PNG; twice as fast as Pillow, and independent of its version.

    Args:
        image: uint8 (height, width, 3).
    """
    height, width, _ = image.shape
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # first byte: filter type 0
    rows[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), level=1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(*chunk) for chunk in chunks)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

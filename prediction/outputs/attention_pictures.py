"""Figures of attention maps, like the figures of the paper (section 4.3)."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from prediction.attention import AttentionMaps
from prediction.detector import Detector
from prediction.inputs.reading import Item
from prediction.outputs.pictures import save_below
from prediction.result import Prediction
from util.visualize.contact_sheet import contact_sheet, with_caption
from util.visualize.drawing import TextStyle, class_color

MAX_DETECTIONS = 5

Point = tuple[float, float]  # x and y in pixels

# Long side of the tiles, in pixels.
_ENCODER_TILE = 400
_DECODER_TILE = 240
_POINTS_PER_ROW = 3
_RING = (0, 255, 255)


def overlay(image: Image.Image, weights: np.ndarray) -> Image.Image:
    """Draw attention weights as a heat map over a dark gray copy of an image.

    Args:
        image: any mode.
        weights: (h, w), not negative; the maximum is yellow, half of it red, zero transparent.
    """
    heat = Image.fromarray((weights / max(float(weights.max()), 1e-12)).astype(np.float32))
    alpha = np.asarray(heat.resize(image.size, Image.Resampling.BILINEAR))[..., None]
    ramps = [
        np.interp(alpha, (0, 0.5, 1), stops) for stops in ((0, 225, 255), (0, 50, 235), (0, 20, 90))
    ]
    gray = 0.4 * np.asarray(image.convert("L"), dtype=np.float32)[..., None]
    mixed = (1 - alpha) * gray + alpha * np.concatenate(ramps, axis=2)
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


def encoder_picture(
    image: Image.Image, points: Sequence[Point], maps: AttentionMaps
) -> Image.Image:
    """Draw the encoder's self-attention at points (paper, figure 3).

    Args:
        image: the upright image.
        points: [N] x and y in pixels of ``image``; at least one.

    Returns:
        figure with the image and its numbered points, then one heat map per point.
    """
    tile = _tile_of(image, _ENCODER_TILE)
    scale = tile.width / image.width
    places = [(x * scale, y * scale) for x, y in points]
    tiles = [with_caption(_with_points(tile, places, numbered=True), "points")]
    for number, ((x, y), place) in enumerate(zip(points, places, strict=True), 1):
        position = maps.cell_at(x / image.width, y / image.height)
        heat = _with_points(overlay(tile, maps.encoder[position]), [place])
        tiles.append(with_caption(heat, f"encoder at point {number} ({x:.0f}, {y:.0f})"))
    rows = range(0, len(tiles), _POINTS_PER_ROW)
    return contact_sheet([tiles[start : start + _POINTS_PER_ROW] for start in rows])


def decoder_picture(image: Image.Image, prediction: Prediction, maps: AttentionMaps) -> Image.Image:
    """Draw the decoder's cross-attention for the best detections (paper, figure 6), also per head.

    Args:
        image: the upright image.
        prediction: at least one detection.

    Returns:
        figure with one row per detection: its box, the mean over the heads, then each head.
    """
    tile = _tile_of(image, _DECODER_TILE)
    scale = tile.width / image.width
    rows = []
    for index in range(min(len(prediction), MAX_DETECTIONS)):
        query = int(prediction.queries[index])
        heads = maps.decoder_heads[:, query]  # (heads, H, W)
        name, score = prediction.names[index], float(prediction.scores[index])
        box = (prediction.boxes_xyxy[index] * scale).tolist()
        row = [
            with_caption(_with_box(tile, box, name), f"{name} {score:.2f} (query {query})"),
            with_caption(overlay(tile, heads.mean(axis=0)), f"mean of {len(heads)} heads"),
        ]
        for number, weights in enumerate(heads, 1):
            row.append(with_caption(overlay(tile, weights), f"head {number}"))
        rows.append(row)
    return contact_sheet(rows)


def detection_tiles(
    image: Image.Image, prediction: Prediction, index: int, maps: AttentionMaps, side: int
) -> tuple[Image.Image, Image.Image, Image.Image]:
    """Draw the box of a detection, its decoder attention, and encoder attention at its center.

    Args:
        image: the upright image.
        index: index of the detection in ``prediction``.
        side: long side of each tile in pixels.
    """
    tile = _tile_of(image, side)
    box = (prediction.boxes_xyxy[index] * (tile.width / image.width)).tolist()
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    encoder = overlay(tile, maps.encoder[maps.cell_at(x / tile.width, y / tile.height)])
    decoder = overlay(tile, maps.decoder[prediction.queries[index]])
    return _with_box(tile, box, prediction.names[index]), decoder, _with_points(encoder, [(x, y)])


def _tile_of(image: Image.Image, side: int) -> Image.Image:
    """RGB copy, resized to ``side`` pixels on the long side."""
    factor = side / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def _with_box(tile: Image.Image, box_xyxy: Sequence[float], name: str) -> Image.Image:
    """Copy of a tile with a box, in pixels of the tile, in the color of its class."""
    canvas = tile.copy()
    ImageDraw.Draw(canvas).rectangle(tuple(box_xyxy), outline=class_color(name), width=2)
    return canvas


def _with_points(tile: Image.Image, points: Sequence[Point], numbered: bool = False) -> Image.Image:
    """Copy of a tile with a ring around each point (in pixels), optionally numbered from 1."""
    canvas = tile.copy()
    draw, style = ImageDraw.Draw(canvas), TextStyle(canvas.size)
    for number, (x, y) in enumerate(points, 1):
        draw.circle((x, y), 5, outline=_RING, width=2)
        if numbered:
            width, height = style.size_of(str(number))
            left, top = min(x + 7, canvas.width - width - 1), min(y, canvas.height - height - 1)
            style.write(draw, (left, top), str(number), _RING)
    return canvas


class AttentionPictures:
    """Writes ``attention/``: two figures per image, for encoder and decoder.

    Args:
        detector: computes the maps in a second pass over each image.
        points: non-negative x and y in pixels; empty: centers of the best detections.

    Raises:
        UserError: if the model has no attention maps.
    """

    def __init__(self, folder: Path, detector: Detector, points: Sequence[Point]) -> None:
        AttentionMaps(detector.loaded.model).stop()  # raises before the first image
        self._folder = folder / "attention"
        self._detector = detector
        self._points = points

    def add(self, item: Item, image: Image.Image, prediction: Prediction) -> None:
        """Compute and draw the maps of an image; points outside the image are reported instead."""
        outside = [p for p in self._points if not (p[0] < image.width and p[1] < image.height)]
        if outside:
            x, y = outside[0]
            size = f"{image.width} x {image.height} pixels (width x height)"
            message = f"no attention: --points {x:g},{y:g} is outside, the image has {size}"
            print(f"{item.title}: {message}", file=sys.stderr)
            return
        points = list(self._points) or [
            ((x0 + x1) / 2, (y0 + y1) / 2)
            for x0, y0, x1, y1 in prediction.boxes_xyxy[:MAX_DETECTIONS].tolist()
        ]
        if not points:
            return
        maps = maps_of(self._detector, image)
        path = self._folder / item.name
        encoder = encoder_picture(image, points, maps)
        save_below(encoder, path.with_name(f"{path.name}.encoder.png"))
        if len(prediction):
            decoder = decoder_picture(image, prediction, maps)
            save_below(decoder, path.with_name(f"{path.name}.decoder.png"))

    def close(self) -> None:
        """Do nothing: figures are saved one by one."""


@torch.no_grad()
def maps_of(detector: Detector, image: Image.Image) -> AttentionMaps:
    """Attention maps of an image."""
    with AttentionMaps(detector.loaded.model) as maps:
        detector.loaded.model(detector.loaded.batch_of(image))
    return maps

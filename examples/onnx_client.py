"""Detect objects with an exported model; requires only onnxruntime, numpy and Pillow.

    python -m export.onnx --checkpoint outputs/checkpoint.pth --output detr.onnx
    python examples/onnx_client.py detr.onnx photo.jpg another.jpg --output pictures

Prints a line of JSON per image. With --output it draws boxes, and masks of segmentation models.
"""

import argparse
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps

FLOAT32 = np.float32
COLOR = (255, 64, 0)
# Required metadata of the file, as JSON; other tools may add more.
METADATA = ("image_mean", "image_std", "short_side", "max_size", "categories")
OPTIONAL = (
    *("category_ids", "fixed_size", "threshold"),
    *("is_thing", "segment_threshold", "architecture"),
)
# Default minimum scores by classification loss, for files without `threshold`.
THRESHOLDS = {"ce": 0.5, "focal": 0.2}


class MistakeError(Exception):
    """A user error, described in one line."""


def open_model(path: str) -> tuple[onnxruntime.InferenceSession, dict[str, Any]]:
    """Load a model and its metadata: `METADATA`, and `OPTIONAL`, None where they are missing.

    Raises:
        MistakeError: the file is not an exported detector.
    """
    if not Path(path).is_file():
        raise MistakeError(f"{path}: the file does not exist")
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as err:  # its exceptions have no common base class
        why = str(err).splitlines()[0]
        raise MistakeError(f"{path}: onnxruntime cannot read it ({why})") from err
    if "scores" not in {output.name for output in session.get_outputs()}:
        raise MistakeError(f"{path}: has no output scores; export it without --raw")
    metadata = session.get_modelmeta().custom_metadata_map
    try:
        found = {name: json.loads(metadata[name]) for name in METADATA}
        optional = {name: json.loads(metadata.get(name, "null")) for name in OPTIONAL}
        return session, {**found, **optional}
    except (KeyError, ValueError) as err:
        raise MistakeError(
            f"{path}: its metadata lack {' or '.join(METADATA)} ({err}); use a file of export.onnx"
        ) from err


def default_threshold(metadata: dict[str, Any]) -> float:
    """Default minimum score, as in predict.py: from the file, else by the classification loss."""
    if metadata["threshold"] is not None:
        return float(metadata["threshold"])
    return THRESHOLDS[(metadata["architecture"] or {}).get("cls_loss", "ce")]


def read_image(path: str) -> Image.Image:
    """Read an image as RGB, with its EXIF orientation applied.

    Raises:
        MistakeError: the file cannot be read.
    """
    try:
        with Image.open(path) as image:
            image.load()
            with contextlib.suppress(Exception):  # broken EXIF data makes Pillow raise anything
                ImageOps.exif_transpose(image, in_place=True)
            return to_rgb(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as err:
        raise MistakeError(f"{path}: cannot be read as an image ({err})") from err


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB; gray images with more bits are scaled to the bits that they use."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float64)
        if values.min() >= 0:
            white = 2 ** max(8, int(values.max()).bit_length()) - 1
            image = Image.fromarray(np.rint(values * 255 / white).astype(np.uint8))
    return image.convert("RGBA" if image.mode in ("P", "PA") else "RGB").convert("RGB")


def scaled(image: Image.Image, short_side: int, max_size: int) -> Image.Image:
    """Scale an image to the input size of the model, with its aspect ratio."""
    short, long = min(image.size), max(image.size)
    short_side = min(short_side, round(max_size * short / long))
    long_side = int(short_side * long / short)
    if short_side == 0:  # a very thin image
        short_side, long_side = 1, max_size
    size_wh = (short_side, long_side) if image.width < image.height else (long_side, short_side)
    return image.resize(size_wh, Image.Resampling.BILINEAR)


def fitted(image: Image.Image, size_hw: Sequence[int]) -> Image.Image:
    """Scale an image to the largest size within ``size_hw``, with its aspect ratio."""
    scale = min(size_hw[0] / image.height, size_hw[1] / image.width)
    size_wh = [max(1, int(side * scale + 1e-6)) for side in image.size]
    return image.resize(size_wh, Image.Resampling.BILINEAR)


def prepare(image: Image.Image, metadata: dict[str, Any]) -> Image.Image:
    """Scale an image to the input size of the model."""
    if metadata["fixed_size"]:
        return fitted(image, metadata["fixed_size"])
    return scaled(image, metadata["short_side"], metadata["max_size"])


def run(
    session: onnxruntime.InferenceSession,
    metadata: dict[str, Any],
    images: Sequence[Image.Image],
    sizes_wh: Sequence[tuple[int, int]],
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Run the model on images, as one batch.

    Args:
        session: the model.
        metadata: of the model.
        images: scaled images.
        sizes_wh: widths and heights of the original images.

    Returns:
        The outputs by name, with boxes in pixels of the original images, and the padding mask
        (B, H, W), True = padding.

    Raises:
        MistakeError: images of several sizes, and a model without padding (detr_demo).
    """
    names = [output.name for output in session.get_outputs()]
    batch = make_batch(images, metadata)
    padding_mask = batch["padding_mask"]
    inputs = {entry.name for entry in session.get_inputs()}
    if inputs == {"images"} and padding_mask.any():
        raise MistakeError("the model takes no padding: give one image, or images of one size")
    if "sizes_hw" not in inputs:
        batch = {name: batch[name] for name in inputs}
        outputs = dict(zip(names, session.run(names, batch), strict=True))
        outputs["boxes"] = outputs["boxes"] * np.array([wh * 2 for wh in sizes_wh])[:, None]
        return outputs, padding_mask
    pixels = np.zeros(batch["images"].shape, np.uint8)  # a model that was exported end to end
    for i, image in enumerate(images):
        pixels[i, :, : image.height, : image.width] = np.asarray(image).transpose(2, 0, 1)
    batch = {
        "images": pixels,
        "sizes_hw": np.array([(image.height, image.width) for image in images]),
        "original_sizes_hw": np.array([(height, width) for width, height in sizes_wh]),
    }
    return dict(zip(names, session.run(names, batch), strict=True)), padding_mask


def make_batch(images: Sequence[Image.Image], metadata: dict[str, Any]) -> dict[str, np.ndarray]:
    """Normalized images (B, 3, H, W) with zeros in the padding, and padding mask (B, H, W)."""
    largest = max(i.height for i in images), max(i.width for i in images)
    height, width = metadata["fixed_size"] or largest
    batch = np.zeros((len(images), 3, height, width), FLOAT32)
    padding_mask = np.ones((len(images), height, width), bool)
    mean, std = np.array(metadata["image_mean"], FLOAT32), np.array(metadata["image_std"], FLOAT32)
    for i, image in enumerate(images):
        pixels = (np.asarray(image, FLOAT32) / 255 - mean) / std  # (h, w, 3)
        batch[i, :, : image.height, : image.width] = pixels.transpose(2, 0, 1)
        padding_mask[i, : image.height, : image.width] = False
    return {"images": batch, "padding_mask": padding_mask}


def detections(
    outputs: dict[str, np.ndarray],
    index: int,
    threshold: float,
    category_ids: Sequence[int | str] | None,
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Detections of an image by descending score, and their positions in the outputs.

    ``category_ids`` are the labels to return for the labels of the model; None: the same.
    """
    scores = np.where(outputs["labels"][index] < 0, -1, outputs["scores"][index])
    best = np.argsort(-scores, kind="stable")[: (scores >= threshold).sum()]
    boxes = outputs["boxes"][index, best]
    labels = outputs["labels"][index, best].tolist()
    found = [
        {
            "label": category_ids[label] if category_ids else label,
            "score": round(float(scores[position]), 4),
            "box_xyxy": [round(float(x), 1) for x in box],
        }
        for position, box, label in zip(best, boxes, labels, strict=True)
    ]
    return found, best


def object_masks(
    logits: np.ndarray,
    padding_mask: np.ndarray,
    scaled_wh: tuple[int, int],
    size_wh: tuple[int, int],
) -> list[Image.Image]:
    """Masks at the size of the original image, 255 inside the object.

    Args:
        logits: (n, h, w) of the padded image.
        padding_mask: (H, W), True = padding.
        scaled_wh: width and height of the scaled image, without padding.
        size_wh: width and height of the original image.
    """
    height, width = padding_mask.shape
    masks = []
    for mask in logits:
        whole = Image.fromarray(mask).resize((width, height), Image.Resampling.BILINEAR)
        inside = np.asarray(whole.crop((0, 0, *scaled_wh))) > 0
        pixels = Image.fromarray(inside.astype(np.uint8) * 255)
        masks.append(pixels.resize(size_wh, Image.Resampling.NEAREST))
    return masks


def draw(
    image: Image.Image, found: Sequence[dict[str, Any]], masks: Sequence[Image.Image]
) -> Image.Image:
    """Draw boxes, names, scores and transparent masks on a copy of the image."""
    picture = image.copy()
    for mask in masks:
        picture.paste(COLOR, mask=mask.point(lambda value: value // 3))
    pen = ImageDraw.Draw(picture)
    for detection in found:
        left, top, right, bottom = detection["box_xyxy"]
        pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=COLOR, width=2)
        pen.text((left + 3, top + 1), f"{detection['name']} {detection['score']:.2f}", fill=COLOR)
    return picture


def detect(args: argparse.Namespace) -> None:
    """Detect objects in all images as one batch; print and, with --output, draw them.

    Raises:
        MistakeError: a file cannot be read, or the threshold is not in [0, 1].
    """
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise MistakeError(f"--threshold {args.threshold:g}: must be 0 to 1, 0.3 for 30 %")
    session, metadata = open_model(args.model)
    threshold = default_threshold(metadata) if args.threshold is None else args.threshold
    originals = [read_image(path) for path in args.images]
    parts = [prepare(image, metadata) for image in originals]
    outputs, padding_mask = run(session, metadata, parts, [image.size for image in originals])

    for i, (path, image, part) in enumerate(zip(args.images, originals, parts, strict=True)):
        found, best = detections(outputs, i, threshold, metadata["category_ids"])
        for detection in found:
            label = str(detection["label"])
            detection["name"] = metadata["categories"].get(label, label)
        print(json.dumps({"image": path, "detections": found}))
        if args.output:
            masks = []
            if "pred_masks" in outputs:
                logits = outputs["pred_masks"][i, best]
                masks = object_masks(logits, padding_mask[i], part.size, image.size)
            args.output.mkdir(parents=True, exist_ok=True)
            draw(image, found, masks).save(args.output / f"{i}_{Path(path).stem}.png")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; a user error gives one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(description="Detect objects with an ONNX file of export.onnx.")
    parser.add_argument("model", help="ONNX file, exported without --raw")
    parser.add_argument("images", nargs="+", help="image files, processed as one batch")
    threshold = "minimum score (default: the best-F1 threshold of the model, else 0.5; focal: 0.2)"
    parser.add_argument("--threshold", type=float, help=threshold)
    parser.add_argument("--output", type=Path, help="folder for images with the detections drawn")
    args = parser.parse_args(argv)
    try:
        detect(args)
    except (MistakeError, OSError) as err:
        parser.exit(2, f"{parser.prog}: error: {err}\n")


if __name__ == "__main__":
    main()

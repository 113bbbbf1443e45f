"""Panoptic segmentation with an exported model; requires only onnxruntime, numpy and Pillow.

    python -m export.onnx --hub detr_resnet50_panoptic --weights released --output panoptic.onnx
    python examples/onnx_panoptic.py panoptic.onnx photo.jpg --output maps

Prints a line of JSON per image, with its segments. With --output it writes maps as PNG files: the
id of the segment of each pixel is red + 256 * green + 65536 * blue, as in COCO's panoptic format.
Keep onnx_client.py next to this file.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_client
from PIL import Image

SMALLEST_AREA = 4  # segments of this many pixels or fewer are dropped


def merge(
    labels: np.ndarray,
    logits: np.ndarray,
    size_wh: tuple[int, int],
    is_thing: Callable[[int], bool],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give each pixel to the query with the largest mask logit, and merge stuff of one class.

    Args:
        labels: (n,) labels of the queries.
        logits: (n, h, w) masks of the scaled image, without padding.
        size_wh: width and height of the map.
        is_thing: whether a label is a thing.

    Returns:
        map (height, width) of segments, from 0; and for each segment its position among the
        queries and its area in pixels.
    """
    positions = np.arange(len(labels))
    segments = np.zeros((size_wh[1], size_wh[0]), np.int32)
    areas = np.zeros(0, int)
    is_merged = True  # only the first time, as in DETR's original
    while len(positions):
        best = softmax(logits[positions]).argmax(0)
        if is_merged:
            best = first_of_class(labels[positions], is_thing)[best]
        image = Image.fromarray(best.astype(np.int32)).resize(size_wh, Image.Resampling.NEAREST)
        segments = np.asarray(image)
        areas = np.bincount(segments.ravel(), minlength=len(positions))
        if (areas > SMALLEST_AREA).all():
            break
        positions, is_merged = positions[areas > SMALLEST_AREA], False
    return segments, positions, areas[: len(positions)]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the first dimension; the first query wins ties, which rounding creates."""
    exponentials = np.exp(logits - logits.max(0))
    return exponentials / exponentials.sum(0)


def first_of_class(labels: np.ndarray, is_thing: Callable[[int], bool]) -> np.ndarray:
    """For each query its own index, or of stuff the index of the first query of its class."""
    first: dict[int, int] = {}
    numbered = enumerate(labels.tolist())
    return np.array([i if is_thing(label) else first.setdefault(label, i) for i, label in numbered])


def enlarged(logits: np.ndarray, padded_hw: tuple[int, int], size_wh: tuple[int, int]) -> Any:
    """Mask logits (n, h, w) of the padded batch, resized to pixels and cut to one image."""
    width, height = size_wh
    masks = [
        Image.fromarray(mask).resize(padded_hw[::-1], Image.Resampling.BILINEAR) for mask in logits
    ]
    return np.array([np.asarray(mask)[:height, :width] for mask in masks])


def segment(args: argparse.Namespace) -> None:
    """Segment all images as one batch; print and, with --output, write their maps.

    Raises:
        onnx_client.MistakeError: a file cannot be read, or is of a model that is not panoptic.
    """
    session, metadata = onnx_client.open_model(args.model)
    if "pred_masks" not in {o.name for o in session.get_outputs()} or not metadata["is_thing"]:
        raise onnx_client.MistakeError(f"{args.model}: is not a panoptic model (--masks, is_thing)")
    threshold = metadata["segment_threshold"] if args.threshold is None else args.threshold
    ids = metadata["category_ids"]
    originals = [onnx_client.read_image(path) for path in args.images]
    parts = [onnx_client.prepare(image, metadata) for image in originals]
    sizes_wh = [image.size for image in originals]
    outputs, padding_mask = onnx_client.run(session, metadata, parts, sizes_wh)

    def is_thing(label: int) -> bool:
        """Whether a predicted label is a thing class, according to the metadata."""
        return bool(metadata["is_thing"].get(str(ids[label] if ids else label), False))

    for i, (path, part) in enumerate(zip(args.images, parts, strict=True)):
        kept = np.flatnonzero((outputs["scores"][i] > threshold) & (outputs["labels"][i] >= 0))
        logits = enlarged(outputs["pred_masks"][i, kept], padding_mask[i].shape, part.size)
        labels, scores = outputs["labels"][i, kept], outputs["scores"][i, kept]
        segments, positions, areas = merge(labels, logits, sizes_wh[i], is_thing)
        described = [
            {
                "id": number,
                "label": ids[labels[position]] if ids else int(labels[position]),
                "isthing": is_thing(int(labels[position])),
                "score": round(float(scores[position]), 4),
                "area": int(areas[number]),
            }
            for number, position in enumerate(positions)
        ]
        print(json.dumps({"image": path, "segments": described}))
        if args.output:
            write_map(segments, args.output / f"{i}_{Path(path).stem}.png")


def write_map(segments: np.ndarray, path: Path) -> None:
    """Write a map of segment ids as a PNG file in COCO's panoptic format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bytes_of_ids = np.stack([segments % 256, segments // 256 % 256, segments // 65536], 2)
    Image.fromarray(bytes_of_ids.astype(np.uint8)).save(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; a user error gives one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(description="Segment images with an ONNX file of export.onnx.")
    parser.add_argument("model", help="ONNX file of a panoptic model, exported without --raw")
    parser.add_argument("images", nargs="+", help="image files, processed as one batch")
    parser.add_argument("--threshold", type=float, help="minimum score (default: the model's)")
    parser.add_argument("--output", type=Path, help="folder for the maps")
    args = parser.parse_args(argv)
    try:
        segment(args)
    except (onnx_client.MistakeError, OSError) as err:
        parser.exit(2, f"{parser.prog}: error: {err}\n")


if __name__ == "__main__":
    main()

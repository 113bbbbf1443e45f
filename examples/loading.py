"""Flags, model loading and detections that the examples share."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from export.source import (
    LoadedModel,
    add_checkpoint_flags,
    from_file,
    known_flags,
    released_model,
)
from models.postprocess import PostProcess
from util.cli.command_line import ArgumentParser, FlagGroup, share
from util.devices import check_device
from util.errors import UserError
from util.visualize.contact_sheet import save_image


@dataclass(frozen=True)
class Detections:
    """Detections in an image, sorted by descending score.

    Attributes:
        queries: [N] indices of the object queries.
        scores: [N] in [0, 1].
        labels: [N] class names.
        boxes_xyxy: [N] in pixels of the original image.
    """

    queries: list[int]
    scores: list[float]
    labels: list[str]
    boxes_xyxy: list[list[float]]

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        outputs: dict[str, Tensor],
        image: Image.Image,
        threshold: float,
        queries: Sequence[int] = (),
    ) -> "Detections":
        """Convert the outputs of a model for one image.

        Args:
            loaded: the model.
            outputs: ``pred_logits`` and ``pred_boxes`` of a batch of one image.
            image: the original image, before scaling.
            threshold: minimum score.
            queries: return these queries, in this order and with any score.
        """
        size_hw = torch.tensor([[image.height, image.width]], device=outputs["pred_boxes"].device)
        to_detections = PostProcess(loaded.category_ids, loaded.cls_loss, one_per_query=True)
        result = to_detections(outputs, size_hw)[0]
        scores = result["scores"].cpu()
        ranked = scores.argsort(descending=True).tolist()
        chosen = list(queries) or [query for query in ranked if scores[query] >= threshold]
        labels = result["labels"].tolist()
        boxes = result["boxes"].tolist()
        return cls(
            chosen,
            [float(scores[query]) for query in chosen],
            [loaded.name_of(labels[query]) for query in chosen],
            [boxes[query] for query in chosen],
        )


def example_parser(
    script: str, description: str, models: Sequence[str], threshold: float
) -> ArgumentParser:
    """Create a parser with the flags of all examples.

    Args:
        script: file name of the example.
        description: description for ``--help``.
        models: released models to choose from; the first is the default.
        threshold: default of ``--threshold``.
    """
    parser = ArgumentParser(script, description=description)
    parser.add_argument("image", help="image file")
    add = parser.add_argument
    add("--model", choices=models, default=models[0], help="released model (default: %(default)s)")
    add("--random_weights", action="store_true", help="random weights, without a download")
    add("--threshold", type=share, default=threshold, help="minimum score (default: %(default)s)")
    default_output = f"{Path(script).stem}.png"
    add("--output", default=default_output, help="image file to write (default: %(default)s)")
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", default=default_device, help="cpu or cuda (default: cuda if available)")
    add_checkpoint_flags(FlagGroup(parser, "your own model"))
    return parser


def load_model(args: argparse.Namespace) -> LoadedModel:
    """Load the model that the flags select, after a check of the output folder.

    Raises:
        UserError: contradictory flags, or a file or device that does not exist.
    """
    folder = Path(args.output).absolute().parent
    if not folder.is_dir():
        raise UserError(f"--output {args.output}: the folder {folder} does not exist")
    if args.checkpoint and args.random_weights:
        raise UserError("--random_weights is for --model: leave it out with --checkpoint")
    check_device(args.device)
    device = torch.device(args.device)
    if args.checkpoint:
        loaded = from_file(args.checkpoint, known_flags(args), averaged=args.ema)
        loaded.model.to(device)
        return loaded
    if args.dilation or args.nheads is not None or args.ema:
        raise UserError("--dilation, --nheads and --ema belong to --checkpoint")
    return released_model(args.model, args.random_weights, device)


def save_output(picture: Image.Image, path: str) -> None:
    """Save an image and print its size.

    Raises:
        UserError: the file cannot be written.
    """
    save_image(picture, path)
    print(f"{path}: {picture.width} x {picture.height} pixels")

"""What the examples share: flags, models from torch.hub entries or checkpoints, and detection."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

import hubconf
from datasets.coco import PUBLISHED_SCALES, make_coco_transforms
from datasets.loading.images import read_upright
from export.source import add_checkpoint_flags, from_file, told_by
from models.postprocess import PostProcess
from models.zoo import RELEASED_MODELS
from util.cli.command_line import ArgumentParser, FlagGroup, share
from util.devices import check_device
from util.errors import UserError
from util.options import NEW_FLAG_DEFAULTS
from util.visualize.contact_sheet import save_image


@dataclass(frozen=True)
class Detector:
    """A model in evaluation mode, and what is needed to feed it and to read its outputs.

    Attributes:
        model: takes a batch (B, 3, H, W).
        names: of the labels.
        num_classes: besides "no object".
        short_side: of images in pixels.
        max_size: largest long side of images in pixels.
        device: of the model.
        is_thing: by label, as far as a checkpoint tells; else it goes by COCO's ids.
    """

    model: nn.Module
    names: Mapping[int, str]
    num_classes: int
    short_side: int
    max_size: int
    device: torch.device
    is_thing: Mapping[int, bool] = field(default_factory=dict)

    def batch_of(self, image: Image.Image) -> Tensor:
        """The image as a batch (1, 3, H, W), scaled and normalised."""
        prepare = make_coco_transforms("val", [self.short_side], self.max_size)
        return prepare(image, None)[0][None].to(self.device)

    def name_of(self, label: int) -> str:
        """Name of a class, or its number where the name is not known."""
        return self.names.get(label, f"class {label}")


@dataclass(frozen=True)
class Detections:
    """The queries with the best scores in an image, best first.

    Attributes:
        queries: [N] their numbers.
        scores: [N] in [0, 1].
        labels: [N] names.
        boxes_xyxy: [N] in pixels of the image.
    """

    queries: list[int]
    scores: list[float]
    labels: list[str]
    boxes_xyxy: list[list[float]]

    @classmethod
    def of(
        cls,
        detector: Detector,
        outputs: dict[str, Tensor],
        image: Image.Image,
        threshold: float,
        queries: Sequence[int] = (),
    ) -> "Detections":
        """Read the outputs for one image.

        Args:
            detector: gave the outputs.
            outputs: ``pred_logits`` and ``pred_boxes`` of a batch of one image.
            image: as it was before scaling.
            threshold: least score.
            queries: these queries instead, whatever their scores.
        """
        size_hw = torch.tensor([[image.height, image.width]], device=detector.device)
        result = PostProcess()(outputs, size_hw)[0]
        scores = result["scores"].cpu()
        ranked = scores.argsort(descending=True).tolist()
        chosen = list(queries) or [query for query in ranked if scores[query] >= threshold]
        labels = result["labels"].tolist()
        boxes = result["boxes"].tolist()
        return cls(
            chosen,
            [float(scores[query]) for query in chosen],
            [detector.name_of(labels[query]) for query in chosen],
            [boxes[query] for query in chosen],
        )


# ---- flags ---------------------------------------------------------------------------------------


def example_parser(
    script: str, description: str, models: Sequence[str], threshold: float
) -> ArgumentParser:
    """Flags that all examples have.

    Args:
        script: name of the file.
        description: what it does.
        models: torch.hub entries to choose from, the default first.
        threshold: default of the flag.
    """
    parser = ArgumentParser(script, description=description)
    parser.add_argument("image", help="image file")
    add = parser.add_argument
    add("--model", choices=models, default=models[0], help="released model (default: %(default)s)")
    add("--random_weights", action="store_true", help="do not download its weights: runs offline")
    add("--threshold", type=share, default=threshold, help="least score (default: %(default)s)")
    default_output = f"{Path(script).stem}.png"
    add("--output", default=default_output, help="picture to write (default: %(default)s)")
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", default=default_device, help="cpu or cuda (default: cuda where there is one)")
    add_checkpoint_flags(FlagGroup(parser, "your own model"))
    return parser


def load_detector(args: argparse.Namespace) -> Detector:
    """The model that the flags ask for; checks the place of the output before it takes the time.

    Raises:
        UserError: flags that contradict each other, a file or device that is not there.
    """
    folder = Path(args.output).absolute().parent
    if not folder.is_dir():
        raise UserError(f"--output {args.output}: the folder {folder} does not exist")
    if args.checkpoint and args.random_weights:
        raise UserError("--random_weights is for --model: leave it out with --checkpoint")
    check_device(args.device)
    device = torch.device(args.device)
    if args.checkpoint:
        return from_checkpoint(args.checkpoint, device, told_by(args), args.ema)
    if args.dilation or args.nheads is not None or args.ema:
        raise UserError("--dilation, --nheads and --ema belong to --checkpoint")
    return released(args.model, args.random_weights, device)


def read_and_save(args: argparse.Namespace) -> tuple[Image.Image, Any]:
    """The image of the flags, upright, and a function that writes the resulting picture.

    Raises:
        UserError: the image cannot be read.
    """

    def save(picture: Image.Image) -> None:
        save_image(picture, args.output)
        print(f"{args.output}: {picture.width} x {picture.height} pixels")

    return read_upright(args.image), save


# ---- models --------------------------------------------------------------------------------------


def released(name: str, random_weights: bool, device: torch.device) -> Detector:
    """A model by the name of its torch.hub entry.

    Args:
        name: key of `models.zoo.RELEASED_MODELS`.
        random_weights: leave it as it is initialised, the same every time.
        device: for the model.

    Raises:
        UserError: the weights cannot be downloaded.
    """
    table_row = RELEASED_MODELS[name]
    options: dict[str, Any] = {"pretrained": not random_weights}
    if not table_row.minimal:
        options["backbone_weights"] = "none"
    torch.manual_seed(0)
    model = getattr(hubconf, name)(**options).to(device).eval()
    return Detector(
        model,
        table_row.category_names,
        table_row.num_classes,
        max(PUBLISHED_SCALES),
        NEW_FLAG_DEFAULTS["max_size"],
        device,
    )


def from_checkpoint(
    path: str, device: torch.device, told: Mapping[str, Any], averaged: bool = False
) -> Detector:
    """A model of a file: of ``main.py``, ours or the original's, or what else exporters read.

    Args:
        path: see `export.source.from_file`.
        device: for the model.
        told: flags that go before those in the file.
        averaged: the averaged weights in the file, in place of the last.

    Raises:
        UserError: the file cannot be read, or holds no DETR.
    """
    source = from_file(path, told, averaged=averaged)
    return Detector(
        source.model.to(device),
        source.categories,
        source.architecture.num_classes,
        source.short_side,
        source.max_size,
        device,
        source.is_thing,
    )

"""Flags, model loading and saving of the examples."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from export.source import add_checkpoint_flags, known_flags
from prediction.detector import Detector
from util.cli.command_line import ArgumentParser, FlagGroup, fraction
from util.errors import UserError
from util.visualize.contact_sheet import save_image, with_caption


def example_parser(
    script: str, description: str, models: Sequence[str], threshold: float | None
) -> ArgumentParser:
    """Create a parser with the flags of all examples.

    Args:
        script: file name of the example.
        description: description for ``--help``.
        models: released models to choose from; the first is the default.
        threshold: default of ``--threshold``; None: it depends on the model.
    """
    parser = ArgumentParser(script, description=description)
    parser.add_argument("image", help="image file")
    add = parser.add_argument
    add("--model", choices=models, default=models[0], help="released model (default: %(default)s)")
    add("--random_weights", action="store_true", help="random weights, without a download")
    default = "the model's" if threshold is None else "%(default)s"
    add("--threshold", type=fraction, default=threshold, help=f"minimum score (default: {default})")
    default_output = f"{Path(script).stem}.png"
    add("--output", default=default_output, help="image file to write (default: %(default)s)")
    add("--device", help="cpu or cuda (default: cuda if there is a GPU)")
    add_checkpoint_flags(FlagGroup(parser, "your own model"))
    return parser


def load_detector(args: argparse.Namespace) -> Detector:
    """Load the model that the flags select, after a check of the output folder.

    Raises:
        UserError: if flags are contradictory, or a file or device does not exist.
    """
    folder = Path(args.output).absolute().parent
    if not folder.is_dir():
        raise UserError(f"--output {args.output}: the folder {folder} does not exist")
    if args.checkpoint:
        if args.random_weights:
            raise UserError("--random_weights requires --model: omit it with --checkpoint")
        return Detector(args.checkpoint, args.device, ema=args.ema, **known_flags(args))
    if args.ema or any(value is not None for value in known_flags(args).values()):
        raise UserError("--dilation, --nheads, --cls_loss and --ema require --checkpoint")
    return Detector.hub(args.model, args.device, pretrained=not args.random_weights)


def save_output(picture: Image.Image, path: str, caption: str = "") -> None:
    """Save an image, with a caption if there is one, and print its size.

    Raises:
        UserError: if the suffix of ``path`` is not an image format.
    """
    picture = with_caption(picture, caption) if caption else picture
    save_image(picture, path)
    print(f"{path}: {picture.width} x {picture.height} pixels")

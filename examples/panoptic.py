"""Segment an image into things and stuff (panoptic segmentation) and draw the segments.

python examples/panoptic.py photo.jpg
python examples/panoptic.py photo.jpg --checkpoint checkpoint.pth
"""

import argparse
import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("panoptic.py")

from datasets.loading.images import read_upright
from examples.loading import example_parser, load_detector, save_output
from models.panoptic import coco_is_thing
from models.released.zoo import RELEASED_MODELS
from prediction.outputs.pictures import draw
from util.cli.command_line import run_command
from util.errors import UserError
from util.text import count

MODELS = [name for name, model in RELEASED_MODELS.items() if model.masks]


def segment(args: argparse.Namespace) -> None:
    """Print and draw the segments of an image.

    Raises:
        UserError: if a flag or a file is invalid, or the model has no masks.
    """
    detector = load_detector(args)
    loaded = detector.loaded
    is_thing = coco_is_thing(loaded.num_classes) | dict(loaded.is_thing)
    is_thing |= dict.fromkeys(args.stuff, False)
    detector.loaded = dataclasses.replace(loaded, is_thing=is_thing)
    image = read_upright(args.image)
    threshold = detector.segment_threshold if args.threshold is None else args.threshold
    found = detector.predict(image, threshold)
    if found.segment_map is None:
        raise UserError(f"--checkpoint {args.checkpoint}: its model was trained without --masks")
    for segment in sorted(found.segments, key=lambda segment: -segment["area"]):
        fraction = segment["area"] / (image.width * image.height)
        print(f"{fraction:5.1%}  {segment['name']} {segment['score']:.2f}")
    caption = f"{count(len(found.segments), 'segment')}, threshold {threshold}"
    save_output(draw(image, found), args.output, caption)


def main(argv: list[str] | None = None) -> int:
    """Run the example and return its exit status."""
    description = "Segment an image into things and stuff."
    parser = example_parser("panoptic.py", description, MODELS, threshold=None)
    help_text = "ids of additional stuff classes (default: from the checkpoint, or COCO's)"
    parser.add_argument("--stuff", type=int, nargs="+", default=[], metavar="ID", help=help_text)
    args = parser.parse_args(argv)
    return run_command("panoptic.py", lambda: segment(args))


if __name__ == "__main__":
    sys.exit(main())

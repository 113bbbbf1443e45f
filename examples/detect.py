"""Detect objects in an image and draw them, with a released model or your own checkpoint.

python examples/detect.py photo.jpg                                        # detr_demo
python examples/detect.py photo.jpg --model detr_resnet50
python examples/detect.py photo.jpg --checkpoint outputs/shapes/checkpoint.pth
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("detect.py")

import torch

from datasets.loading.images import read_upright
from examples.loading import Detections, example_parser, load_model, save_output
from models.released.zoo import RELEASED_MODELS
from util.cli.command_line import run_command
from util.visualize.contact_sheet import count, with_caption
from util.visualize.detections import draw_boxes

MODELS = ["detr_demo", *(name for name in RELEASED_MODELS if name != "detr_demo")]


@torch.no_grad()
def detect(args: argparse.Namespace) -> None:
    """Print and draw the detections in an image.

    Raises:
        UserError: invalid flags or files.
    """
    loaded = load_model(args)
    image = read_upright(args.image)
    outputs = loaded.model(loaded.batch_of(image))
    found = Detections.of(loaded, outputs, image, args.threshold)
    for label, score, box in zip(found.labels, found.scores, found.boxes_xyxy, strict=True):
        print(f"{score:.2f}  {label:16s}", " ".join(f"{value:7.1f}" for value in box))
    caption = f"{count(len(found.queries), 'detection')} with a score of {args.threshold} or more"
    # Reversed: the highest score is drawn last, on top.
    picture = draw_boxes(image, found.boxes_xyxy[::-1], found.labels[::-1], found.scores[::-1])
    save_output(with_caption(picture, caption), args.output)


def main(argv: list[str] | None = None) -> int:
    """Run the example and return its exit status."""
    parser = example_parser("detect.py", "Detect objects in an image.", MODELS, threshold=0.7)
    args = parser.parse_args(argv)
    return run_command("detect.py", lambda: detect(args))


if __name__ == "__main__":
    sys.exit(main())

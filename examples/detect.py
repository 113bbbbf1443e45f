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

from datasets.loading.images import read_upright
from examples.loading import example_parser, load_detector, save_output
from models.released.zoo import RELEASED_MODELS
from prediction.outputs.pictures import draw
from util.cli.command_line import run_command
from util.text import count

MODELS = ["detr_demo", *(name for name in RELEASED_MODELS if name != "detr_demo")]
_RELEASED_THRESHOLD = 0.7


def detect(args: argparse.Namespace) -> None:
    """Print and draw the detections in an image.

    Raises:
        UserError: if a flag or a file is invalid.
    """
    detector = load_detector(args)
    image = read_upright(args.image)
    threshold = args.threshold
    if threshold is None:
        threshold = detector.threshold if args.checkpoint else _RELEASED_THRESHOLD
    found = detector.predict(image, threshold)
    for name, score, box in zip(found.names, found.scores, found.boxes_xyxy, strict=True):
        print(f"{score:.2f}  {name:16s}", " ".join(f"{value:7.1f}" for value in box))
    caption = f"{count(len(found), 'detection')} with a score of {threshold:.3g} or more"
    save_output(draw(image, found), args.output, caption)


def main(argv: list[str] | None = None) -> int:
    """Run the example and return its exit status."""
    parser = example_parser("detect.py", "Detect objects in an image.", MODELS, threshold=None)
    args = parser.parse_args(argv)
    return run_command("detect.py", lambda: detect(args))


if __name__ == "__main__":
    sys.exit(main())

"""Segment an image into things and stuff, and save a picture.

python examples/panoptic.py photo.jpg
python examples/panoptic.py photo.jpg --checkpoint checkpoint.pth
"""

import argparse
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("panoptic.py")

import torch

from examples.loading import example_parser, load_detector, read_and_save
from models.panoptic import PostProcessPanoptic, coco_is_thing
from models.zoo import RELEASED_MODELS
from util.cli.command_line import run_command
from util.errors import UserError
from util.panoptic_coding import decode_id_map
from util.visualize.contact_sheet import count, with_caption
from util.visualize.panoptic import draw_panoptic

MODELS = [name for name, model in RELEASED_MODELS.items() if model.masks]


@torch.no_grad()
def segment(args: argparse.Namespace) -> None:
    """Print and draw the segments of an image.

    Raises:
        UserError: a mistake in flags or files; a model without masks.
    """
    detector = load_detector(args)
    image, save = read_and_save(args)
    outputs = detector.model(batch := detector.batch_of(image))
    if "pred_masks" not in outputs:
        raise UserError(f"--checkpoint {args.checkpoint}: its model was trained without --masks")
    is_thing = coco_is_thing(detector.num_classes)
    is_thing.update(detector.is_thing)
    is_thing.update(dict.fromkeys(args.stuff, False))
    to_segments = PostProcessPanoptic(is_thing, args.threshold, return_scores=True)
    size_hw = (image.height, image.width)
    result = to_segments(outputs, [tuple(batch.shape[-2:])], [size_hw])[0]
    segments = result["segments_info"]
    for one in sorted(segments, key=lambda segment: -segment["area"]):
        share = one["area"] / (image.width * image.height)
        print(f"{share:5.1%}  {detector.name_of(one['category_id'])} {one['score']:.2f}")
    id_map = decode_id_map(io.BytesIO(result["png_string"]))
    picture = draw_panoptic(image, id_map, segments, detector.names)
    save(with_caption(picture, f"{count(len(segments), 'segment')}, threshold {args.threshold}"))


def main(argv: list[str] | None = None) -> int:
    """Run the example and return its exit status."""
    description = "Segment an image into things and stuff."
    parser = example_parser("panoptic.py", description, MODELS, threshold=0.85)
    help_text = "labels that are stuff, besides those that the checkpoint or else COCO has for it"
    parser.add_argument("--stuff", type=int, nargs="+", default=[], metavar="ID", help=help_text)
    args = parser.parse_args(argv)
    return run_command("panoptic.py", lambda: segment(args))


if __name__ == "__main__":
    sys.exit(main())

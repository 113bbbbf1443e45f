"""Segment an image into things and stuff (panoptic segmentation) and draw the segments.

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

from datasets.loading.images import read_upright
from examples.loading import example_parser, load_model, save_output
from models.panoptic import PostProcessPanoptic, coco_is_thing
from models.released.zoo import RELEASED_MODELS
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
        UserError: invalid flags or files, or a model without masks.
    """
    loaded = load_model(args)
    image = read_upright(args.image)
    batch = loaded.batch_of(image)
    outputs = loaded.model(batch)
    if "pred_masks" not in outputs:
        raise UserError(f"--checkpoint {args.checkpoint}: its model was trained without --masks")
    is_thing = coco_is_thing(loaded.num_classes) | dict(loaded.is_thing)
    is_thing |= dict.fromkeys(args.stuff, False)
    to_segments = PostProcessPanoptic(
        is_thing, args.threshold, return_scores=True, category_ids=loaded.category_ids
    )
    size_hw = (image.height, image.width)
    result = to_segments(outputs, [tuple(batch.shape[-2:])], [size_hw])[0]
    segments = result["segments_info"]
    for segment in sorted(segments, key=lambda segment: -segment["area"]):
        share = segment["area"] / (image.width * image.height)
        print(f"{share:5.1%}  {loaded.name_of(segment['category_id'])} {segment['score']:.2f}")
    id_map = decode_id_map(io.BytesIO(result["png_string"]))
    picture = draw_panoptic(image, id_map, segments, loaded.categories)
    caption = f"{count(len(segments), 'segment')}, threshold {args.threshold}"
    save_output(with_caption(picture, caption), args.output)


def main(argv: list[str] | None = None) -> int:
    """Run the example and return its exit status."""
    description = "Segment an image into things and stuff."
    parser = example_parser("panoptic.py", description, MODELS, threshold=0.85)
    help_text = "more stuff classes, by id, besides the stuff of the checkpoint or of COCO"
    parser.add_argument("--stuff", type=int, nargs="+", default=[], metavar="ID", help=help_text)
    args = parser.parse_args(argv)
    return run_command("panoptic.py", lambda: segment(args))


if __name__ == "__main__":
    sys.exit(main())

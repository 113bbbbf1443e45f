"""Draw attention maps of the best queries of a DETR, or of chosen queries.

Each row of the picture shows a query: its box; the decoder's cross-attention of the query to the
image, which in trained models lies on the extremities of the object; and the encoder's
self-attention at the centre of the box, which separates the object from its neighbours (paper,
section 4.3).

python examples/attention.py photo.jpg
python examples/attention.py photo.jpg --queries 3 17 --checkpoint checkpoint.pth
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("attention.py")

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from datasets.loading.images import read_upright
from examples.loading import Detections, example_parser, load_model, save_output
from export.source import LoadedModel
from models.released.zoo import RELEASED_MODELS
from prediction.attention import AttentionMaps
from prediction.outputs.attention_pictures import overlay
from util.cli.command_line import run_command
from util.errors import UserError
from util.visualize.contact_sheet import contact_sheet, fit_column, with_caption
from util.visualize.detections import draw_boxes
from util.visualize.drawing import enlarged

MODELS = [name for name, model in RELEASED_MODELS.items() if not model.minimal]
_MAX_ROWS = 5


def row_of_query(
    image: Image.Image, found: Detections, index: int, maps: AttentionMaps
) -> list[Image.Image]:
    """Draw box, decoder attention and encoder attention of a query.

    Args:
        image: the original image, before scaling.
        found: detections in the image.
        index: index of the query in ``found``.
        maps: attention maps of the image.
    """
    query, box = found.queries[index], found.boxes_xyxy[index]
    x, y = (box[0] + box[2]) / 2 / image.width, (box[1] + box[3]) / 2 / image.height
    row, column = maps.cell_at(x, y)
    boxed = draw_boxes(image, [box], [found.labels[index]], [found.scores[index]])
    canvas = enlarged(image)
    encoder = _marked(overlay(canvas, maps.encoder[row, column]), x, y)
    return [
        with_caption(fit_column(boxed), f"query {query}"),
        with_caption(fit_column(overlay(canvas, maps.decoder[query])), "decoder: query to image"),
        with_caption(fit_column(encoder), "encoder: centre of the box to image"),
    ]


def _marked(picture: Image.Image, x: float, y: float) -> Image.Image:
    """Draw a ring at a point, in [0, 1] of width and height."""
    radius = max(picture.size) / 80
    centre = x * picture.width, y * picture.height
    ImageDraw.Draw(picture).circle(
        centre, radius, outline=(0, 255, 255), width=round(radius / 3) + 1
    )
    return picture


def _choose(
    loaded: LoadedModel, outputs: dict[str, Tensor], image: Image.Image, args: argparse.Namespace
) -> Detections:
    """The queries of --queries, else the best above the threshold, else the best of all."""
    num_queries = outputs["pred_boxes"].shape[1]
    wrong = [query for query in args.queries if not 0 <= query < num_queries]
    if wrong:
        raise UserError(f"--queries {wrong[0]}: the model has queries 0 to {num_queries - 1}")
    if args.queries:
        return Detections.of(loaded, outputs, image, 0, args.queries)
    found = Detections.of(loaded, outputs, image, args.threshold)
    best = (found.queries or Detections.of(loaded, outputs, image, 0).queries)[:_MAX_ROWS]
    return Detections.of(loaded, outputs, image, 0, best)


@torch.no_grad()
def show_attention(args: argparse.Namespace) -> None:
    """Draw the attention maps of an image.

    Raises:
        UserError: invalid flags or files.
    """
    loaded = load_model(args)
    image = read_upright(args.image)
    maps = AttentionMaps(loaded.model)
    outputs = loaded.model(loaded.batch_of(image))
    found = _choose(loaded, outputs, image, args)
    rows = [row_of_query(image, found, index, maps) for index in range(len(found.queries))]
    for query, label, score in zip(found.queries, found.labels, found.scores, strict=True):
        print(f"query {query}: {label} {score:.2f}")
    save_output(contact_sheet(rows), args.output)


def main(argv: list[str] | None = None) -> int:
    """Run the example and return its exit status."""
    parser = example_parser("attention.py", "Draw attention maps of a DETR.", MODELS, threshold=0.7)
    help_text = f"indices of queries (default: the best, at most {_MAX_ROWS})"
    parser.add_argument("--queries", type=int, nargs="+", default=[], metavar="N", help=help_text)
    args = parser.parse_args(argv)
    return run_command("attention.py", lambda: show_attention(args))


if __name__ == "__main__":
    sys.exit(main())

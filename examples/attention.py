"""Draw attention maps of the best queries of a DETR, or of chosen queries.

Each row of the figure shows a query: its box; the decoder's cross-attention of the query, which in
trained models is highest at the extremities of the object; and the encoder's self-attention at the
center of the box, which separates the object from its neighbors (paper, section 4.3).

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

from datasets.loading.images import read_upright
from examples.loading import example_parser, load_detector, save_output
from models.released.zoo import RELEASED_MODELS
from prediction.attention import AttentionMaps
from prediction.outputs.attention_pictures import detection_tiles
from prediction.result import Prediction
from util.cli.command_line import run_command
from util.errors import UserError
from util.visualize.contact_sheet import COLUMN_WIDTH, contact_sheet, with_caption

MODELS = [name for name, model in RELEASED_MODELS.items() if not model.minimal]
_MAX_ROWS = 5


def _choose(found: Prediction, args: argparse.Namespace, num_queries: int) -> list[int]:
    """Indices in ``found``: of --queries, else the best above --threshold, else the best."""
    index_of = {query: index for index, query in enumerate(found.queries.tolist())}
    for query in args.queries:
        if not 0 <= query < num_queries:
            raise UserError(f"--queries {query}: the model has queries 0 to {num_queries - 1}")
        if query not in index_of:
            raise UserError(f"--queries {query}: predicts stuff, which has no detection to show")
    if args.queries:
        return [index_of[query] for query in args.queries]
    num_above = int((found.scores >= args.threshold).sum())
    return list(range(min(num_above or len(found), _MAX_ROWS)))


def show_attention(args: argparse.Namespace) -> None:
    """Draw the attention maps of an image.

    Raises:
        UserError: if a flag or a file is invalid, or nothing is detected.
    """
    detector = load_detector(args)
    image = read_upright(args.image)
    with AttentionMaps(detector.loaded.model) as maps:
        found = detector.predict(image, threshold=0.0)
    chosen = _choose(found, args, len(maps.decoder))
    if not chosen:
        raise UserError(f"{args.image}: the model detects nothing, even at threshold 0")
    rows = []
    for index in chosen:
        query = f"query {found.queries[index]}: {found.names[index]} {found.scores[index]:.2f}"
        print(query)
        tiles = detection_tiles(image, found, index, maps, COLUMN_WIDTH)
        captions = query, "decoder: query to image", "encoder: center of the box to image"
        rows.append([with_caption(*pair) for pair in zip(tiles, captions, strict=True)])
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

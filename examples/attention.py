"""Show where a DETR looks: attention maps of its best queries, or of chosen ones.

For each query the picture has a row: its box; the decoder's attention of the query to the image,
which in trained models lies on the ends of the object; and the encoder's attention of the cell at
the middle of the box to all others, which tells the object from its neighbours (paper, section
4.3).

python examples/attention.py photo.jpg
python examples/attention.py photo.jpg --queries 3 17 --checkpoint checkpoint.pth
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("attention.py")

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from examples.loading import Detections, Detector, example_parser, load_detector, read_and_save
from models.zoo import RELEASED_MODELS
from util.cli.command_line import run_command
from util.errors import UserError
from util.visualize.contact_sheet import contact_sheet, fit_column, with_caption
from util.visualize.detections import draw_boxes
from util.visualize.drawing import enlarged

MODELS = [name for name, model in RELEASED_MODELS.items() if not model.minimal]
_MOST_ROWS = 5


class AttentionMaps:
    """The attention weights of the last layers while an image goes through a model.

    Args:
        model: a `models.detr.DETR`, or a segmentation model around one.

    Attributes:
        decoder: (Q, H, W) of each query to each cell of the feature map.
        encoder: (H, W, H, W) of each cell to each cell.
    """

    decoder: np.ndarray
    encoder: np.ndarray

    def __init__(self, model: nn.Module):
        detr: Any = getattr(model, "detr", model)
        if not len(detr.transformer.encoder.layers):
            raise UserError("the model has no encoder layer (--enc_layers 0): no map to show")
        self._grid_hw = (0, 0)
        detr.input_proj.register_forward_hook(self._keep_grid)
        # Weights are averaged over the heads.
        detr.transformer.encoder.layers[-1].self_attn.register_forward_hook(self._keep_encoder)
        detr.transformer.decoder.layers[-1].multihead_attn.register_forward_hook(self._keep_decoder)

    def _keep_grid(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._grid_hw = (output.shape[-2], output.shape[-1])

    def _keep_encoder(self, module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        self.encoder = output[1][0].cpu().numpy().reshape(*self._grid_hw, *self._grid_hw)

    def _keep_decoder(self, module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        self.decoder = output[1][0].cpu().numpy().reshape(-1, *self._grid_hw)

    def cell_at(self, x: float, y: float) -> tuple[int, int]:
        """Row and column of the cell at a point in [0, 1] of the image's width and height."""
        height, width = self._grid_hw
        return min(max(int(y * height), 0), height - 1), min(max(int(x * width), 0), width - 1)


def overlay(image: Image.Image, weights: np.ndarray) -> Image.Image:
    """An image in dark grey with attention on top: black, red, yellow from none to the most.

    Args:
        image: of any mode.
        weights: (h, w), not negative.

    Returns:
        A picture of the same size.
    """
    heat = Image.fromarray((weights / max(float(weights.max()), 1e-12)).astype(np.float32))
    share = np.asarray(heat.resize(image.size, Image.Resampling.BILINEAR))[..., None]
    ramps = [
        np.interp(share, (0, 0.5, 1), stops) for stops in ((0, 225, 255), (0, 50, 235), (0, 20, 90))
    ]
    grey = 0.4 * np.asarray(image.convert("L"), dtype=np.float32)[..., None]
    mixed = (1 - share) * grey + share * np.concatenate(ramps, axis=2)
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


def row_of_query(
    image: Image.Image, found: Detections, place: int, maps: AttentionMaps
) -> list[Image.Image]:
    """Box, decoder attention and encoder attention of a query.

    Args:
        image: as it was before scaling.
        found: the detections.
        place: of the query among them.
        maps: of the image.
    """
    query, box = found.queries[place], found.boxes_xyxy[place]
    x, y = (box[0] + box[2]) / 2 / image.width, (box[1] + box[3]) / 2 / image.height
    row, column = maps.cell_at(x, y)
    boxed = draw_boxes(image, [box], [found.labels[place]], [found.scores[place]])
    canvas = enlarged(image)
    encoder = _marked(overlay(canvas, maps.encoder[row, column]), x, y)
    return [
        with_caption(fit_column(boxed), f"query {query}"),
        with_caption(fit_column(overlay(canvas, maps.decoder[query])), "decoder: query to image"),
        with_caption(fit_column(encoder), "encoder: middle of the box to image"),
    ]


def _marked(picture: Image.Image, x: float, y: float) -> Image.Image:
    """The picture with a ring at a point in [0, 1] of its width and height."""
    radius = max(picture.size) / 80
    centre = x * picture.width, y * picture.height
    ImageDraw.Draw(picture).circle(
        centre, radius, outline=(0, 255, 255), width=round(radius / 3) + 1
    )
    return picture


def _choose(
    detector: Detector, outputs: dict[str, Tensor], image: Image.Image, args: argparse.Namespace
) -> Detections:
    """The queries of the flag, else the best above the threshold, else the very best."""
    num_queries = outputs["pred_boxes"].shape[1]
    wrong = [query for query in args.queries if not 0 <= query < num_queries]
    if wrong:
        raise UserError(f"--queries {wrong[0]}: the model has queries 0 to {num_queries - 1}")
    if args.queries:
        return Detections.of(detector, outputs, image, 0, args.queries)
    found = Detections.of(detector, outputs, image, args.threshold)
    best = (found.queries or Detections.of(detector, outputs, image, 0).queries)[:_MOST_ROWS]
    return Detections.of(detector, outputs, image, 0, best)


@torch.no_grad()
def show_attention(args: argparse.Namespace) -> None:
    """Draw the attention maps of an image.

    Raises:
        UserError: a mistake in flags or files.
    """
    detector = load_detector(args)
    image, save = read_and_save(args)
    maps = AttentionMaps(detector.model)
    outputs = detector.model(detector.batch_of(image))
    found = _choose(detector, outputs, image, args)
    rows = [row_of_query(image, found, place, maps) for place in range(len(found.queries))]
    for query, label, score in zip(found.queries, found.labels, found.scores, strict=True):
        print(f"query {query}: {label} {score:.2f}")
    save(contact_sheet(rows))


def main(argv: list[str] | None = None) -> int:
    """Run the example and return its exit status."""
    parser = example_parser("attention.py", "Show where a DETR looks.", MODELS, threshold=0.7)
    help_text = f"numbers of queries (default: the best, at most {_MOST_ROWS})"
    parser.add_argument("--queries", type=int, nargs="+", default=[], metavar="N", help=help_text)
    args = parser.parse_args(argv)
    return run_command("attention.py", lambda: show_attention(args))


if __name__ == "__main__":
    sys.exit(main())

"""Attention maps of the model on a few validation images (paper, section 4.3)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from datasets.loading.listed_images import read_row_image
from prediction.attention import AttentionMaps
from prediction.detector import Detector
from prediction.outputs.attention_pictures import detection_tiles
from report.ground_truth import GroundTruth
from report.page import ImagePair
from report.worst_images import as_data_url
from util.errors import UserError
from util.visualize.contact_sheet import evenly_spaced

TITLE = "Attention: box of the best detection (left), attention (right)"
_NUM_IMAGES = 3
_SIDE = 420  # longest side of an image, in pixels


def attention_samples(
    checkpoint: Path, ground_truth: GroundTruth
) -> Mapping[str, Sequence[ImagePair]]:
    """Draw the attention for the best detection in a few images with objects.

    Args:
        checkpoint: file of the model, which runs on the CPU.
        ground_truth: validation data; nothing is drawn if it has no image folder.

    Returns:
        for each image the cross-attention of the decoder and the self-attention of the encoder,
        under one heading; empty if the model has no attention maps or an image cannot be read.
    """
    folder = ground_truth.image_folder
    if folder is None:
        return {}
    try:
        detector = Detector(checkpoint, "cpu")
        rows = _chosen_rows(ground_truth)
        samples = [sample for row in rows for sample in _samples(detector, folder, row)]
    except UserError:
        return {}
    return {TITLE: samples} if samples else {}


def _chosen_rows(ground_truth: GroundTruth) -> list[Mapping[str, Any]]:
    """Rows of images with objects, evenly spaced."""
    with_objects = sorted({one["image_id"] for one in ground_truth.val.anns.values()})
    chosen = evenly_spaced(with_objects, _NUM_IMAGES)
    return [ground_truth.val.imgs[image_id] for image_id in chosen]


def _samples(detector: Detector, folder: Path, row: Mapping[str, Any]) -> list[ImagePair]:
    """Attention of decoder and encoder in an image; empty if it has no detection."""
    image = read_row_image(folder, dict(row))
    with AttentionMaps(detector.loaded.model) as maps:
        found = detector.predict(image, threshold=0.0)
    if not len(found):
        return []
    box, decoder, encoder = detection_tiles(image, found, 0, maps, _SIDE)
    label = f"{found.names[0]} {found.scores[0]:.2f}"

    def sample(caption: str, heat: Image.Image) -> ImagePair:
        """The box beside one attention map."""
        return ImagePair(str(row["file_name"]), caption, as_data_url(box), as_data_url(heat))

    return [
        sample(f"{label}: decoder, query {found.queries[0]}", decoder),
        sample(f"{label}: encoder, center of the box", encoder),
    ]

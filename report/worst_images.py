"""Images with the most telling errors of each kind, drawn beside ground truth."""

import base64
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from datasets.evaluation.error_kinds import ErrorKind, ImageErrors
from datasets.loading.listed_images import read_row_image
from report.ground_truth import GroundTruth
from report.quality import Names
from util.errors import UserError
from util.visualize.boxes import draw_boxes
from util.visualize.contact_sheet import fit_column

_PER_KIND = 4
_WEBP_QUALITY = 72
_COLUMN = 420  # longest side of a picture, in pixels
KINDS = {
    ErrorKind.MISSED: "Missed objects",
    ErrorKind.BACKGROUND: "False detections: no object is there",
    ErrorKind.MISLOCALISED: "Mislocalised: IoU between 0.1 and 0.5",
    ErrorKind.WRONG_CLASS: "Wrong class",
    ErrorKind.DOUBLE: "Double detections of an object",
}


class WorstImage(NamedTuple):
    """An image of the report.

    Attributes:
        file_name: as in the annotation file.
        sentence: what is wrong.
        truth: data URL of the picture with the ground truth.
        found: data URL of the picture with the detections.
    """

    file_name: str
    sentence: str
    truth: str
    found: str


def worst_images(
    errors: Sequence[ImageErrors], ground_truth: GroundTruth, names: Names
) -> dict[str, list[WorstImage]]:
    """Draw the worst images of each kind of error; an image is shown once.

    Images with most missed objects, or else with the highest scores of wrong detections.

    Args:
        errors: of all images.
        ground_truth: with the folder of the images; images that cannot be read are left out.
        names: class names by category id.

    Returns:
        images by title of their kind.
    """
    if ground_truth.image_folder is None:
        return {}
    taken: set[int] = set()
    found: dict[str, list[WorstImage]] = {}
    for kind, title in KINDS.items():
        ranked = sorted(errors, key=lambda one: -_weight(one, kind))
        drawn: list[WorstImage] = []
        for one in ranked:
            if len(drawn) == _PER_KIND or _weight(one, kind) <= 0:
                break
            if one.image.image_id in taken:
                continue
            taken.add(one.image.image_id)
            image = _draw(one, kind, ground_truth, names)
            drawn += [] if image is None else [image]
        if drawn:
            found[title] = drawn
    return found


def _weight(errors: ImageErrors, kind: ErrorKind) -> float:
    """How bad an image is: number of missed objects, or sum of the scores of wrong detections."""
    if kind is ErrorKind.MISSED:
        return float(errors.is_missed.sum())
    scores = errors.image.scores.tolist()
    return sum(s for s, own in zip(scores, errors.kinds, strict=True) if own is kind)


def _draw(
    errors: ImageErrors, kind: ErrorKind, ground_truth: GroundTruth, names: Names
) -> WorstImage | None:
    """Draw an image; None if it cannot be read."""
    image = errors.image
    row = ground_truth.val.imgs[image.image_id]
    assert ground_truth.image_folder is not None
    try:
        whole = read_row_image(ground_truth.image_folder, row)
    except UserError:
        return None
    picture = fit_column(whole, _COLUMN)
    factor = max(picture.size) / max(whole.size)
    number = int(errors.is_missed.sum()) if kind is ErrorKind.MISSED else errors.kinds.count(kind)
    found = np.setdiff1d(np.arange(len(image.object_labels)), errors.matched)
    missed = np.isin(np.arange(len(image.object_labels)), found)
    wrong = [one not in (None, ErrorKind.CORRECT) for one in errors.kinds]

    def data_url(boxes: np.ndarray, labels: np.ndarray, scores: Any, dashed: Any) -> str:
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) * factor
        texts = [str(names.get(label, label)) for label in labels]
        # The best detection comes last: on top, with the first choice of a place for its label.
        order = slice(None, None, -1)
        scores = None if scores is None else scores[order].tolist()
        drawn = draw_boxes(
            picture, corners[order].tolist(), texts[order], scores, dashed=list(dashed)[order]
        )
        return as_data_url(drawn)

    return WorstImage(
        str(row["file_name"]),
        f"{number} {kind.value}",
        data_url(image.object_boxes_xywh, image.object_labels, None, missed.tolist()),
        data_url(image.boxes_xywh, image.labels, image.scores, wrong),
    )


def as_data_url(image: Image.Image) -> str:
    """An image as a WebP data URL."""
    content = io.BytesIO()
    image.save(content, "WEBP", quality=_WEBP_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode("ascii")

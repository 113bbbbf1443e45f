"""Images with the worst errors of each kind, with ground truth and detections side by side."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from datasets.evaluation.error_kinds import ErrorKind, ImageErrors
from datasets.loading.listed_images import read_row_image
from report.ground_truth import GroundTruth
from report.page import ImagePair
from report.quality import Names
from util.errors import UserError
from util.visualize.boxes import draw_boxes
from util.visualize.contact_sheet import fit_column

_PER_KIND = 4
_WEBP_QUALITY = 72
_COLUMN = 420  # longest side of an image in the report, in pixels
KINDS = {
    ErrorKind.MISSED: "Missed objects",
    ErrorKind.BACKGROUND: "False detections on background",
    ErrorKind.MISLOCALIZED: "Mislocalized: IoU between 0.1 and 0.5",
    ErrorKind.WRONG_CLASS: "Wrong class",
    ErrorKind.DOUBLE: "Double detections of an object",
}


def worst_images(
    errors: Sequence[ImageErrors], ground_truth: GroundTruth, names: Names
) -> dict[str, list[ImagePair]]:
    """Draw, by kind of error, the images with the most missed objects or highest sum of scores.

    Each image is shown once.

    Args:
        ground_truth: annotations and image folder; unreadable images are skipped.
        names: class names by category id.

    Returns:
        images by heading.
    """
    if ground_truth.image_folder is None:
        return {}
    shown: set[int] = set()
    found: dict[str, list[ImagePair]] = {}
    for kind, title in KINDS.items():
        ranked = sorted(errors, key=lambda one: -_error_score(one, kind))
        drawn: list[ImagePair] = []
        for one in ranked:
            if len(drawn) == _PER_KIND or _error_score(one, kind) <= 0:
                break
            if one.image.image_id in shown:
                continue
            shown.add(one.image.image_id)
            image = _draw(one, kind, ground_truth, names)
            drawn += [] if image is None else [image]
        if drawn:
            found[title] = drawn
    return found


def _error_score(errors: ImageErrors, kind: ErrorKind) -> float:
    """Sort key of an image: number of missed objects, or sum of the scores of false detections."""
    if kind is ErrorKind.MISSED:
        return float(errors.is_missed.sum())
    scores = errors.image.scores.tolist()
    return sum(s for s, own in zip(scores, errors.kinds, strict=True) if own is kind)


def _draw(
    errors: ImageErrors, kind: ErrorKind, ground_truth: GroundTruth, names: Names
) -> ImagePair | None:
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
    missed = ~np.isin(np.arange(len(image.object_labels)), errors.matched)
    wrong = [one not in (None, ErrorKind.CORRECT) for one in errors.kinds]

    def data_url(boxes: np.ndarray, labels: np.ndarray, scores: Any, dashed: Any) -> str:
        """Draw boxes (N, 4), xywh in pixels of the stored image, as a data URL."""
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) * factor
        texts = [str(names.get(label, label)) for label in labels]
        # The best detection comes last: it is drawn on top, and its label is placed first.
        order = slice(None, None, -1)
        scores = None if scores is None else scores[order].tolist()
        drawn = draw_boxes(
            picture, corners[order].tolist(), texts[order], scores, dashed=list(dashed)[order]
        )
        return as_data_url(drawn)

    return ImagePair(
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

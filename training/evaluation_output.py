"""Output of an evaluation: tables per class, explanations of low scores, and figures."""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from datasets.annotations.coco_file import replace_text_ids
from datasets.coco_eval import CocoEvaluator
from datasets.coco_panoptic import CocoPanoptic
from datasets.evaluation.collapse import explain_collapse
from datasets.evaluation.explain import explain_limit, explain_missing_ap
from datasets.evaluation.matching import best_thresholds
from datasets.evaluation.result_formats import per_class_table
from datasets.loading.listed_images import read_row_image
from datasets.panoptic_eval import PANOPTIC_FOLDER
from util.distributed.processes import is_main_process
from util.files.panoptic_png import decode_id_map
from util.visualize.contact_sheet import evenly_spaced
from util.visualize.detections import save_detection_samples
from util.visualize.panoptic import PanopticSample, save_panoptic_samples

_NUM_IMAGES = 6


def print_class_tables(evaluator: CocoEvaluator, categories: Mapping[int, str]) -> None:
    """Print a table with the scores of each class, for each IoU type.

    Args:
        evaluator: evaluator after ``accumulate``.
    """
    for iou_type, score in evaluator.coco_eval.items():
        print(f"By class, {iou_type}:")
        print(per_class_table(score, categories))


def explanations(evaluator: CocoEvaluator, training: bool) -> list[str]:
    """Sentences that explain an AP of -1 or 0, COCO's limit of detections, or collapsed boxes.

    Args:
        evaluator: evaluator after ``accumulate``.
        training: whether this is an evaluation during training, not ``--eval``.

    Returns:
        sentences, possibly none.
    """
    collapse = explain_collapse(evaluator.coco_gt, evaluator.detections("bbox"), training)
    others = [sentence for sentence in (explain_limit(evaluator), collapse) if sentence is not None]
    return [*explain_missing_ap(evaluator, training=training), *others]


def all_detections(evaluator: CocoEvaluator) -> list[dict[str, Any]]:
    """COCO result entries with boxes, and with masks if they were evaluated."""
    detections = evaluator.detections("bbox")
    if "segm" not in evaluator.coco_eval:
        return detections
    with_masks = evaluator.detections("segm")
    return [{**box, **mask} for box, mask in zip(detections, with_masks, strict=True)]


def thresholds_in(evaluator: CocoEvaluator) -> dict[str, Any] | None:
    """Score thresholds with the best F1, see `best_thresholds`; None on all ranks except 0."""
    if not is_main_process():
        return None
    return best_thresholds(evaluator.coco_gt, evaluator.detections("bbox"), evaluator.img_ids)


def draw_detections(
    detections: list[dict[str, Any]],
    ground_truth: COCO,
    dataset: Any,
    folder: Path,
    threshold: float,
) -> Path | None:
    """Draw ``detections.png``: a sample of detections next to ground truth.

    Args:
        detections: COCO result entries.
        dataset: its ``root`` is the image folder; without ``root`` nothing is drawn.
        threshold: detections with a lower score are not drawn.

    Returns:
        path of the figure, or None.
    """
    if not hasattr(dataset, "root"):
        return None
    figure = folder / "detections.png"
    # Box AP is defined for things only: drop stuff detections of panoptic models.
    detections = [d for d in detections if d["category_id"] in ground_truth.cats]
    save_detection_samples(
        ground_truth,
        detections,
        dataset.root,
        figure,
        read_row_image,
        threshold=threshold,
        masks=any("segmentation" in d for d in detections[:1]),
    )
    return figure


def draw_panoptic_maps(dataset: CocoPanoptic, folder: Path) -> Path:
    """Draw ``panoptic.png``: a sample of panoptic maps next to ground truth.

    Args:
        dataset: provides the ground truth.
        folder: output folder; the predicted maps are in its subfolder `PANOPTIC_FOLDER`.

    Returns:
        path of the figure.
    """
    figure = folder / "panoptic.png"
    save_panoptic_samples(panoptic_samples(dataset, folder / PANOPTIC_FOLDER), figure)
    return figure


def panoptic_samples(
    dataset: CocoPanoptic, prediction_folder: str | Path
) -> Iterator[PanopticSample]:
    """Yield a few images, evenly spaced among the predictions, with ground truth and prediction.

    Args:
        prediction_folder: output folder of `datasets.panoptic_eval.PanopticEvaluator`.
    """
    folder = Path(prediction_folder)
    predictions = json.loads((folder / "predictions.json").read_text(encoding="utf-8"))
    rows = predictions["annotations"]
    replace_text_ids(rows)
    for predicted in evenly_spaced(rows, _NUM_IMAGES):
        image_id = predicted["image_id"]
        image, truth = dataset.segments.image(image_id), dataset.segments.map_of(image_id)
        yield PanopticSample(
            partial(read_row_image, dataset.img_folder, image),
            decode_id_map(Path(dataset.ann_folder) / truth["file_name"]),
            [
                {**segment, "isthing": dataset.is_thing[segment["category_id"]]}
                for segment in truth["segments_info"]
            ],
            decode_id_map(folder / predicted["file_name"]),
            predicted["segments_info"],
            dataset.categories,
            f"image {image['id']}",
        )

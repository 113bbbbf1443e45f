"""Reports of an evaluation: tables, explanations and images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from datasets.coco_eval import CocoEvaluator
from datasets.coco_panoptic import CocoPanoptic
from datasets.evaluation.collapse import explain_collapse
from datasets.evaluation.explain import explain_missing_ap
from datasets.evaluation.panoptic_pictures import panoptic_samples
from datasets.evaluation.report import per_class_table
from datasets.evaluation.thresholds import best_thresholds
from datasets.loading.listed_images import read_row_image
from engine import PANOPTIC_FOLDER
from util.distributed.processes import is_main_process
from util.visualize.detections import save_detection_samples
from util.visualize.panoptic import save_panoptic_samples


def print_class_tables(evaluator: CocoEvaluator, categories: Mapping[int, str]) -> None:
    """Print a table with the scores of each class, for each IoU type.

    Args:
        evaluator: accumulated.
        categories: names by id.
    """
    for iou_type, score in evaluator.coco_eval.items():
        print(f"By class, {iou_type}:")
        print(per_class_table(score, categories))


def explanations(evaluator: CocoEvaluator, training: bool) -> list[str]:
    """Sentences that explain an AP of -1 or 0, and collapsed boxes; empty if all is well.

    Args:
        evaluator: accumulated.
        training: whether this is an evaluation during training, not ``--eval``.
    """
    collapse = explain_collapse(evaluator, training)
    reasons = explain_missing_ap(evaluator, training=training)
    return reasons if collapse is None else [*reasons, collapse]


def all_detections(evaluator: CocoEvaluator) -> list[dict[str, Any]]:
    """COCO result entries with boxes, and with masks if they were evaluated."""
    detections = evaluator.detections("bbox")
    if "segm" not in evaluator.coco_eval:
        return detections
    with_masks = evaluator.detections("segm")
    return [{**box, **mask} for box, mask in zip(detections, with_masks, strict=True)]


def thresholds_in(evaluator: CocoEvaluator) -> dict[str, Any] | None:
    """Score thresholds with the best F1, see `best_thresholds`; only the main process has them."""
    if not is_main_process():
        return None
    return best_thresholds(evaluator.coco_gt, evaluator.detections("bbox"), evaluator.img_ids)


def draw_detections(
    detections: list[dict[str, Any]], ground_truth: COCO, dataset: Any, folder: Path
) -> Path | None:
    """Draw ``detections.png``: a sample of detections beside ground truth.

    Args:
        detections: COCO result entries.
        ground_truth: of the images.
        dataset: its ``root`` is the folder of the images; without ``root`` nothing is drawn.
        folder: of the run.

    Returns:
        its path, or None.
    """
    if not hasattr(dataset, "root"):
        return None
    picture = folder / "detections.png"
    # Instance annotations of panoptic data only have things, and AP only counts these.
    detections = [one for one in detections if one["category_id"] in ground_truth.cats]
    save_detection_samples(
        ground_truth,
        detections,
        dataset.root,
        picture,
        read_image=read_row_image,
        masks=any("segmentation" in one for one in detections[:1]),
    )
    return picture


def draw_panoptic_maps(dataset: CocoPanoptic, folder: Path) -> Path:
    """Draw ``panoptic.png``: a sample of panoptic maps beside ground truth.

    Args:
        dataset: with the ground truth.
        folder: of the run; the maps are in its `engine.PANOPTIC_FOLDER`.

    Returns:
        its path.
    """
    picture = folder / "panoptic.png"
    save_panoptic_samples(panoptic_samples(dataset, folder / PANOPTIC_FOLDER), picture)
    return picture

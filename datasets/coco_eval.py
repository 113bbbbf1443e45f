"""COCO evaluation of detections, in one or more processes.

`CocoEvaluator` has the interface of the original codebase, but `CocoEvaluator.update` only collects
detections, and `CocoEvaluator.accumulate` evaluates all of them once. The functions `evaluate`,
`merge` and `create_common_coco_eval`, which `main` does not use, evaluate batch by batch with
pycocotools, like the original.
"""

import contextlib
import copy
import io
import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from datasets.annotations.coco_file import box_area
from datasets.annotations.segmentations import encode_segmentation
from datasets.evaluation.coco_scoring import Annotation, CocoScore, choose_backend
from datasets.evaluation.image_detections import (
    ImageDetections,
    Prediction,
    check_iou_type,
    collect_detections,
    convert_to_xywh,
    extent_of,
    result_entries,
)
from util.distributed.gathering import broadcast_object, gather_by_id
from util.distributed.processes import all_gather, get_world_size, is_main_process
from util.errors import UserError

__all__ = [
    "CocoEvaluator",
    "convert_to_xywh",
    "create_common_coco_eval",
    "evaluate",
    "merge",
]


class CocoEvaluator:
    """Collects detections, and evaluates them against COCO ground truth.

    Call `update` for each batch, then `synchronize_between_processes`, `accumulate` and
    `summarize`. Only images passed to `update` are evaluated, each once: duplicates (from a
    `DistributedSampler` that repeats images) are ignored; the result of the lowest rank is kept.

    After `synchronize_between_processes` only rank 0 has the results; the other ranks receive
    ``coco_eval[iou_type].stats`` from `summarize`.

    Attributes:
        coco_gt: the ground truth (not modified).
        iou_types: some of "bbox", "segm" and "keypoints".
        coco_eval: a `CocoScore` per IoU type, with ``params``, ``eval`` and ``stats``. Settings
            such as ``params.maxDets`` may be changed before `accumulate`.
        img_ids: ids of collected images, sorted after `synchronize_between_processes`.
        backend: one of `datasets.evaluation.coco_scoring.BACKENDS`.
    """

    def __init__(
        self,
        coco_gt: COCO,
        iou_types: Sequence[str],
        backend: str = "auto",
        print_tables: bool = True,
    ) -> None:
        """Create an evaluator without detections.

        Args:
            coco_gt: the ground truth; it is not modified.
            iou_types: one or more of "bbox", "segm" and "keypoints".
            backend: "auto" uses faster-coco-eval if installed, else pycocotools.
            print_tables: print the COCO summary in `summarize`.

        Raises:
            UserError: if the backend "faster" is not installed.
            ValueError: if an IoU type or the backend is unknown.
        """
        for iou_type in iou_types:
            check_iou_type(iou_type)
            choose_backend(backend, iou_type)
        self.coco_gt = copy.copy(coco_gt)
        self.iou_types = iou_types
        self.backend = backend
        self._print_tables = print_tables
        self.coco_eval = {
            kind: CocoScore(kind, list(coco_gt.imgs), list(coco_gt.cats)) for kind in iou_types
        }
        self._collected: dict[int, ImageDetections] = {}
        self._is_shared = False  # whether the detections have been moved to rank 0

    @property
    def img_ids(self) -> list[int]:
        """Ids of the collected images."""
        return list(self._collected)

    def update(self, predictions: Mapping[int, Prediction]) -> None:
        """Add the detections of some images.

        Args:
            predictions: for each image id, a dict with ``scores`` (N,), ``labels`` (N,) (category
                ids) and, depending on the IoU types, ``boxes`` (N, 4) xyxy pixels, ``masks``
                (N, 1, H, W) at the image's size (foreground above 0.5) and ``keypoints`` (N, K, 3).
                An empty dict is an image without detections.

        Raises:
            UserError: if an image id is not in the ground truth, masks do not have the image's
                size, or a number is not finite.
            ValueError: if a field is missing, or fields differ in length.
        """
        for image_id, prediction in predictions.items():
            self._check_image(image_id, prediction)
            if image_id not in self._collected:
                self._collected[int(image_id)] = collect_detections(
                    image_id, prediction, self.iou_types
                )

    def synchronize_between_processes(self) -> None:
        """Gather all detections on rank 0. Collective."""
        self._collected = gather_by_id(self._collected)
        self._is_shared = get_world_size() > 1

    def accumulate(self) -> None:
        """Evaluate all collected detections; the result is in ``coco_eval[iou_type].eval``."""
        if not self._has_all:
            return
        for iou_type, score in self.coco_eval.items():
            if self._print_tables:
                print("Accumulating evaluation results...")
            start = time.perf_counter()
            images = {image_id: self.coco_gt.imgs[image_id] for image_id in self._collected}
            score.evaluate(
                self._ground_truth(iou_type), self._scorable(iou_type), images, self.backend
            )
            if self._print_tables:
                print(f"DONE (t={time.perf_counter() - start:.2f}s).")

    def summarize(self) -> None:
        """Print the COCO summary of each IoU type, and set ``coco_eval[iou_type].stats``.

        Collective after `synchronize_between_processes`.
        """
        for iou_type, score in self.coco_eval.items():
            if self._has_all:
                if self._print_tables:
                    print(f"IoU metric: {iou_type}")
                score.summarize(self._print_tables)
            if self._is_shared:
                score.stats = broadcast_object(score.stats)

    @property
    def _has_all(self) -> bool:
        """Whether this rank has all detections to evaluate."""
        return not self._is_shared or is_main_process()

    def prepare(self, predictions: Mapping[int, Prediction], iou_type: str) -> list[Annotation]:
        """Convert predictions to COCO result entries, without adding them.

        Args:
            predictions: see `update`.
            iou_type: "bbox", "segm" or "keypoints".

        Returns:
            One dict per detection with ``image_id``, ``category_id``, ``score`` and ``bbox`` (xywh
            pixels), ``segmentation`` (compressed RLE) or ``keypoints`` (flat list).

        Raises:
            ValueError: if the IoU type is unknown.
        """
        check_iou_type(iou_type)
        return [
            entry
            for image_id, prediction in predictions.items()
            for entry in result_entries(
                image_id, collect_detections(image_id, prediction, [iou_type]), iou_type
            )
        ]

    def prepare_for_coco_detection(self, predictions: Mapping[int, Prediction]) -> list[Annotation]:
        """`prepare` for boxes."""
        return self.prepare(predictions, "bbox")

    def prepare_for_coco_segmentation(
        self, predictions: Mapping[int, Prediction]
    ) -> list[Annotation]:
        """`prepare` for masks."""
        return self.prepare(predictions, "segm")

    def prepare_for_coco_keypoint(self, predictions: Mapping[int, Prediction]) -> list[Annotation]:
        """`prepare` for keypoints."""
        return self.prepare(predictions, "keypoints")

    def detections(self, iou_type: str = "bbox") -> list[Annotation]:
        """Return all collected detections as COCO result entries (see `prepare`).

        They are sorted by image id, and kept in the model's order within an image. Numbers are not
        rounded, so equal detections give equal files.
        """
        check_iou_type(iou_type)
        return [
            entry
            for image_id, collected in sorted(self._collected.items())
            for entry in result_entries(image_id, collected, iou_type)
        ]

    def _check_image(self, image_id: int, prediction: Prediction) -> None:
        """Check image id and mask size of a prediction."""
        image = self.coco_gt.imgs.get(image_id)
        if image is None:
            raise UserError(
                f"detections for image id {image_id!r}, which is not among the "
                f"{len(self.coco_gt.imgs)} images of the ground truth: evaluate with the "
                "annotation file of these images"
            )
        if "segm" not in self.iou_types or not len(prediction.get("masks", ())):
            return
        size_hw = tuple(prediction["masks"].shape[-2:])
        if size_hw != (image["height"], image["width"]):
            raise UserError(
                f"masks of image {image_id} are {size_hw[0]} x {size_hw[1]} pixels (height x "
                f"width), but the annotation file says {image['height']} x {image['width']}: "
                "correct the size in the file"
            )

    def _scorable(self, iou_type: str) -> list[Annotation]:
        """Return `detections` with the fields that the backends need: id, area and iscrowd."""
        entries = self.detections(iou_type)
        for detection_id, entry in enumerate(entries, start=1):
            entry.update(extent_of(entry), id=detection_id, iscrowd=0)
        return entries

    def _ground_truth(self, iou_type: str) -> list[Annotation]:
        """Copy the annotations of the collected images, with new ids starting at 1.

        The backends use 0 for "no match", but an annotation id in a file may be 0.
        """
        copies: list[Annotation] = []
        for image_id in sorted(self._collected):
            for annotation in self.coco_gt.imgToAnns.get(image_id, []):
                copies.append(
                    {
                        "id": len(copies) + 1,
                        "image_id": image_id,
                        "category_id": annotation["category_id"],
                        "bbox": annotation["bbox"],
                        "area": box_area(annotation),
                        "iscrowd": int(annotation.get("iscrowd") or 0),
                        **self._shape_fields(annotation, iou_type),
                    }
                )
        return copies

    def _shape_fields(self, annotation: Annotation, iou_type: str) -> Annotation:
        """Return the fields that the IoU types "segm" and "keypoints" need."""
        if iou_type == "keypoints":
            return {name: annotation[name] for name in ("keypoints", "num_keypoints")}
        if iou_type == "segm":
            image = self.coco_gt.imgs[annotation["image_id"]]
            given, height, width = annotation.get("segmentation"), image["height"], image["width"]
            try:
                return {"segmentation": encode_segmentation(given, height, width)}
            except ValueError as error:
                raise UserError(
                    f"annotation {annotation['id']} of image {annotation['image_id']}: {error}; "
                    "correct the segmentation, or evaluate without --masks"
                ) from error
        return {}


def evaluate(self: COCOeval) -> tuple[list[int], np.ndarray]:
    """Run a pycocotools evaluation per image, without printing.

    Args:
        self: a pycocotools evaluation with ``cocoGt``, ``cocoDt`` and ``params.imgIds``.

    Returns:
        The sorted image ids, and the results per image: an object array (K categories, A area
        ranges, I images) of dicts or None.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        self.evaluate()
    params = self.params
    num_categories = len(params.catIds) if params.useCats else 1
    results = np.empty(len(self.evalImgs), dtype=object)
    results[:] = self.evalImgs
    return params.imgIds, results.reshape(num_categories, len(params.areaRng), len(params.imgIds))


def merge(img_ids: Iterable[int], eval_imgs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge the per-image results of all ranks. Collective.

    Args:
        eval_imgs: (K, A, I), as returned by `evaluate`.

    Returns:
        The sorted ids (J,) of all images, and their results (K, A, J); for duplicate images those
        of the lowest rank.
    """
    all_ids = np.concatenate([np.asarray(ids) for ids in all_gather(list(img_ids))])
    all_results = np.concatenate(all_gather(eval_imgs), axis=2)
    unique_ids, first_seen = np.unique(all_ids, return_index=True)
    return unique_ids, all_results[..., first_seen]


def create_common_coco_eval(
    coco_eval: COCOeval, img_ids: Iterable[int], eval_imgs: np.ndarray
) -> None:
    """Store the merged results of all processes in ``coco_eval``, for ``accumulate()``. Collective.

    Args:
        coco_eval: a pycocotools evaluation, modified in place.
        img_ids: see `merge`.
        eval_imgs: see `merge`.
    """
    merged_ids, merged_results = merge(img_ids, eval_imgs)
    coco_eval.params.imgIds = merged_ids.tolist()
    coco_eval.evalImgs = list(merged_results.flatten())
    coco_eval._paramsEval = copy.deepcopy(coco_eval.params)

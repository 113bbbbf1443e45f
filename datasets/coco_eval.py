"""COCO evaluation of a model's detections, in one process or many.

`CocoEvaluator` has the interface of the original codebase. It differs inside:
`CocoEvaluator.update` only collects, and the whole set is scored once, by
`datasets.evaluation.coco_scoring`, when `CocoEvaluator.accumulate` is called. The functions
`evaluate`, `merge` and `create_common_coco_eval` keep the original's other way, batch by batch on
pycocotools objects, for code that uses it.
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
from datasets.evaluation.coco_scoring import Annotation, CocoScore, choose_engine
from datasets.evaluation.image_detections import (
    ImageDetections,
    Prediction,
    check_iou_type,
    collect_detections,
    convert_to_xywh,
    extent_of,
    result_entries,
)
from util.distributed.gathering import broadcast_object, gather_to_main
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
    """Collects detections image by image and scores them against COCO ground truth.

    Call `update` for each batch, then `synchronize_between_processes`, `accumulate` and
    `summarize`. Only images that some `update` has named count. An image named twice, as a padded
    distributed sampler does, counts once: the first time, in the order of the processes.

    After `synchronize_between_processes` the main process has everything. The others have nothing
    but, after `summarize`, the numbers in ``coco_eval[iou_type].stats``.

    Attributes:
        coco_gt: the ground truth, a COCO object of its own; its annotations are read, never
            written.
        iou_types: what is scored, of "bbox", "segm" and "keypoints".
        coco_eval: for each IoU type a `CocoScore` with ``params``, ``eval`` and ``stats``. Settings
            such as ``params.maxDets`` may be changed until `accumulate`.
        img_ids: the images seen, ascending after `synchronize_between_processes`.
        engine: what computes the score, one of `datasets.evaluation.coco_scoring.ENGINES`.
    """

    def __init__(self, coco_gt: COCO, iou_types: Sequence[str], engine: str = "auto") -> None:
        """
        Args:
            coco_gt: the annotations of the images to come; stays untouched.
            iou_types: one or more of "bbox", "segm" and "keypoints", as a list or tuple.
            engine: "auto" is faster-coco-eval where installed, else pycocotools.

        Raises:
            UserError: the engine is asked for by name and not installed.
            ValueError: an IoU type or engine that does not exist.
        """
        for iou_type in iou_types:
            check_iou_type(iou_type)
            choose_engine(engine, iou_type)
        self.coco_gt = copy.copy(coco_gt)
        self.iou_types = iou_types
        self.engine = engine
        self.coco_eval = {
            kind: CocoScore(kind, list(coco_gt.imgs), list(coco_gt.cats)) for kind in iou_types
        }
        self._collected: dict[int, ImageDetections] = {}
        self._is_shared = False  # whether the main process has it all

    @property
    def img_ids(self) -> list[int]:
        """The images seen so far."""
        return list(self._collected)

    def update(self, predictions: Mapping[int, Prediction]) -> None:
        """Adds the detections of some images.

        Args:
            predictions: by image id a dictionary with ``scores`` [N], ``labels`` [N] (category ids)
                and, as the IoU types need, ``boxes`` [N, 4] in absolute xyxy pixels, ``masks`` [N,
                1, H, W] at the image's size (a pixel counts above 0.5) and ``keypoints`` [N, K, 3].
                An empty dictionary is an image without detections.

        Raises:
            UserError: an image id that the ground truth does not have, masks of another size than
                its image, or numbers that are not finite.
            ValueError: a field is missing or of another length than the others.
        """
        for image_id, prediction in predictions.items():
            self._check_image(image_id, prediction)
            if image_id not in self._collected:
                self._collected[int(image_id)] = collect_detections(
                    image_id, prediction, self.iou_types
                )

    def synchronize_between_processes(self) -> None:
        """Gives the main process the detections of all; all must call it, and a single one may."""
        first_seen: dict[int, ImageDetections] = {}
        for image_id, collected in gather_to_main(list(self._collected.items())):
            first_seen.setdefault(image_id, collected)
        self._collected = dict(sorted(first_seen.items()))
        self._is_shared = get_world_size() > 1

    def accumulate(self) -> None:
        """Scores everything collected; the result is in ``coco_eval[iou_type].eval``."""
        if not self._has_all:
            return
        for iou_type, score in self.coco_eval.items():
            print("Accumulating evaluation results...")
            start = time.perf_counter()
            images = {image_id: self.coco_gt.imgs[image_id] for image_id in self._collected}
            score.evaluate(
                self._ground_truth(iou_type), self._scorable(iou_type), images, self.engine
            )
            print(f"DONE (t={time.perf_counter() - start:.2f}s).")

    def summarize(self) -> None:
        """Prints the COCO table of each IoU type and fills ``coco_eval[iou_type].stats``.

        After `synchronize_between_processes` all processes must call it.
        """
        for iou_type, score in self.coco_eval.items():
            if self._has_all:
                print(f"IoU metric: {iou_type}")
                score.summarize()
            if self._is_shared:
                score.stats = broadcast_object(score.stats)

    @property
    def _has_all(self) -> bool:
        """Whether this process has what it is to score."""
        return not self._is_shared or is_main_process()

    def prepare(self, predictions: Mapping[int, Prediction], iou_type: str) -> list[Annotation]:
        """The COCO result entries of some predictions, without adding them.

        Args:
            predictions: as `update` takes them.
            iou_type: "bbox", "segm" or "keypoints".

        Returns:
            One dictionary a detection with ``image_id``, ``category_id``, ``score`` and ``bbox``
            (xywh, absolute pixels), ``segmentation`` (compressed RLE) or ``keypoints`` (flat list).

        Raises:
            ValueError: no such IoU type.
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
        """Everything collected, as COCO result entries (see `prepare`).

        The order is that of the image ids and, within an image, of the model's output. Every number
        is exactly the model's, so that equal detections give equal files.
        """
        check_iou_type(iou_type)
        return [
            entry
            for image_id, collected in sorted(self._collected.items())
            for entry in result_entries(image_id, collected, iou_type)
        ]

    def _check_image(self, image_id: int, prediction: Prediction) -> None:
        """Ground truth and predictions must be about the same picture."""
        image = self.coco_gt.imgs.get(image_id)
        if image is None:
            raise UserError(
                f"detections for image id {image_id!r}, which is none of the "
                f"{len(self.coco_gt.imgs)} images of the ground truth: evaluate with the "
                "annotation file that belongs to the images"
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
        """`detections` with what scoring needs besides: a positive id, an area, not a crowd."""
        entries = self.detections(iou_type)
        for detection_id, entry in enumerate(entries, start=1):
            entry.update(extent_of(entry), id=detection_id, iscrowd=0)
        return entries

    def _ground_truth(self, iou_type: str) -> list[Annotation]:
        """Copies of the annotations of the images seen.

        The engines mark a match by the annotation's id and take 0 for "no match", so ids are
        counted anew from 1: files that count from 0 are scored like any other.
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
        """What an annotation has besides its box for the IoU types other than ``bbox``."""
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
                    "scoring masks needs one: mend it, or evaluate without --masks"
                ) from error
        return {}


def evaluate(self: COCOeval) -> tuple[list[int], np.ndarray]:
    """Scores the images of a pycocotools evaluation one by one, without printing.

    Args:
        self: with ``cocoGt``, ``cocoDt`` and ``params.imgIds`` set.

    Returns:
        The image ids, ascending, and pycocotools' results per image: [K categories, A area ranges,
        I images] objects, dictionaries or None.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        self.evaluate()
    params = self.params
    num_categories = len(params.catIds) if params.useCats else 1
    results = np.empty(len(self.evalImgs), dtype=object)
    results[:] = self.evalImgs
    return params.imgIds, results.reshape(num_categories, len(params.areaRng), len(params.imgIds))


def merge(img_ids: Iterable[int], eval_imgs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joins the per-image results of all processes, keeping each image once, from the first.

    Args:
        img_ids: ids of this process's I images.
        eval_imgs: [K, A, I], as `evaluate` returns them.

    Returns:
        The ids [J] of all images, ascending, and their results [K, A, J].
    """
    all_ids = np.concatenate([np.asarray(ids) for ids in all_gather(list(img_ids))])
    all_results = np.concatenate(all_gather(eval_imgs), axis=2)
    unique_ids, first_seen = np.unique(all_ids, return_index=True)
    return unique_ids, all_results[..., first_seen]


def create_common_coco_eval(
    coco_eval: COCOeval, img_ids: Iterable[int], eval_imgs: np.ndarray
) -> None:
    """Puts the merged results of all processes into ``coco_eval``, ready for its ``accumulate()``.

    Args:
        coco_eval: a pycocotools evaluation, changed in place.
        img_ids: as for `merge`.
        eval_imgs: as for `merge`.
    """
    merged_ids, merged_results = merge(img_ids, eval_imgs)
    coco_eval.params.imgIds = merged_ids.tolist()
    coco_eval.evalImgs = list(merged_results.flatten())
    coco_eval._paramsEval = copy.deepcopy(coco_eval.params)

"""COCO precision and recall, computed by faster-coco-eval (if installed) or pycocotools.

Both backends receive only the annotations to evaluate, so that they need not index or filter.
"""

import contextlib
import datetime
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from pycocotools.cocoeval import COCOeval, Params

from util.errors import UserError
from util.system.memory import garbage_collection_paused

IOU_TYPES = ("bbox", "segm", "keypoints")
BACKENDS = ("auto", "faster", "pycocotools")

Annotation = dict[str, Any]
Images = Mapping[int, Mapping[str, Any]]


class ScoringTask(NamedTuple):
    """Input of a backend, limited to the evaluated images and categories.

    The backends add fields to the annotations, which must therefore be copies.
    """

    ground_truth: list[Annotation]
    detections: list[Annotation]
    images: Images
    params: Params


Backend = Callable[[ScoringTask], dict[str, np.ndarray]]


class SummaryRow(NamedTuple):
    """A line of the COCO summary: mean precision (AP) or mean recall (AR).

    If ``iou_threshold`` is None, the mean is over all thresholds. ``max_dets_index`` is an index
    into ``params.maxDets``.
    """

    metric: str
    iou_threshold: float | None
    area: str
    max_dets_index: int


_BOX_SUMMARY = (
    SummaryRow("AP", None, "all", -1),
    SummaryRow("AP", 0.5, "all", -1),
    SummaryRow("AP", 0.75, "all", -1),
    SummaryRow("AP", None, "small", -1),
    SummaryRow("AP", None, "medium", -1),
    SummaryRow("AP", None, "large", -1),
    SummaryRow("AR", None, "all", 0),
    SummaryRow("AR", None, "all", 1),
    SummaryRow("AR", None, "all", 2),
    SummaryRow("AR", None, "small", -1),
    SummaryRow("AR", None, "medium", -1),
    SummaryRow("AR", None, "large", -1),
)
_KEYPOINT_SUMMARY = tuple(
    SummaryRow(metric, iou_threshold, area, -1)
    for metric in ("AP", "AR")
    for iou_threshold, area in (
        (None, "all"),
        (0.5, "all"),
        (0.75, "all"),
        (None, "medium"),
        (None, "large"),
    )
)


class CocoScore:
    """Settings and results of an evaluation for one IoU type.

    Attributes:
        params: pycocotools parameters. ``iouThrs``, ``recThrs``, ``maxDets``, ``areaRng``,
            ``areaRngLbl``, ``catIds`` and ``useCats`` may be changed before `evaluate`, which sets
            ``imgIds`` to the sorted ids of the evaluated images.
        eval: set by `evaluate`: ``params``, ``counts`` [T, R, K, A, M], ``date``, and float64
            arrays ``precision`` and ``scores`` (T, R, K, A, M) and ``recall`` (T, K, A, M); -1
            where there is no ground truth. T: IoU thresholds, R: recall thresholds, K: categories,
            A: area ranges, M: limits of detections per image.
        stats: set by `summarize`: COCO's 12 metrics (10 for keypoints) in [0, 1]; -1 where there is
            no ground truth.
        objects_per_category: set by `evaluate`: number of ground-truth objects, without crowds, by
            category id.
    """

    def __init__(
        self, iou_type: str, image_ids: Sequence[int], category_ids: Sequence[int]
    ) -> None:
        self.params = Params(iouType=iou_type)
        self.params.imgIds = sorted(image_ids)
        self.params.catIds = sorted(category_ids)
        self.eval: dict[str, Any] = {}
        self.stats: np.ndarray = np.empty(0)
        self.objects_per_category: Counter[int] = Counter()

    @property
    def summary_rows(self) -> tuple[SummaryRow, ...]:
        """Meaning of each entry of ``stats``."""
        return _KEYPOINT_SUMMARY if self.params.iouType == "keypoints" else _BOX_SUMMARY

    def evaluate(
        self,
        ground_truth: list[Annotation],
        detections: list[Annotation],
        images: Images,
        backend: str = "auto",
    ) -> None:
        """Evaluate ``images``, and set ``eval``.

        Args:
            ground_truth: COCO annotations with distinct positive ids, modified by the backend. For
                ``segm`` their ``segmentation`` is a compressed RLE.
            detections: COCO result entries with ``id``, ``area`` and ``iscrowd``, modified by the
                backend.
            images: images to evaluate, by id; with ``height`` and ``width`` for ``segm``.
            backend: one of `BACKENDS`.
        """
        params = self.params
        params.imgIds = sorted(images)
        # Python numbers, not numpy scalars, so that saved files load with weights_only.
        params.catIds = sorted({int(i) for i in params.catIds})
        params.maxDets = sorted(params.maxDets)
        category_ids = set(params.catIds)
        ground_truth = [a for a in ground_truth if a["category_id"] in category_ids]
        self.objects_per_category = Counter(
            a["category_id"] for a in ground_truth if not a["iscrowd"]
        )
        detections = [d for d in detections if d["category_id"] in category_ids]
        task = ScoringTask(ground_truth, detections, images, params)
        with garbage_collection_paused():
            arrays = choose_backend(backend, params.iouType)(task)
        self.eval = {
            "params": params,
            "counts": list(arrays["precision"].shape),
            "date": datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
            **arrays,
        }

    def summarize(self, print_table: bool = True) -> None:
        """Print the COCO summary table, if requested, and store its numbers in ``stats``.

        Raises:
            RuntimeError: if `evaluate` has not been called.
        """
        if not self.eval:
            raise RuntimeError("nothing to summarize: call accumulate() before summarize()")
        self.stats = np.array([_mean_of_valid(self._select(row)) for row in self.summary_rows])
        if print_table:
            for row, value in zip(self.summary_rows, self.stats, strict=True):
                print(self._line(row, value))

    def class_mean(self, row: SummaryRow, class_index: int) -> float:
        """Return the value of ``row`` for ``params.catIds[class_index]``; -1 without objects."""
        return _mean_of_valid(self._select(row)[..., class_index])

    def _select(self, row: SummaryRow) -> np.ndarray:
        """Return the values averaged by ``row``: precision (T', R, K) or recall (T', K)."""
        values = self.eval["precision" if row.metric == "AP" else "recall"]
        if row.iou_threshold is not None:
            values = values[np.isclose(self.params.iouThrs, row.iou_threshold)]
        if row.area not in self.params.areaRngLbl:
            return np.full((1, values.shape[-3]), -1.0)
        return values[..., self.params.areaRngLbl.index(row.area), self._max_dets_index(row)]

    def _max_dets_index(self, row: SummaryRow) -> int:
        return min(row.max_dets_index, len(self.params.maxDets) - 1)

    def _line(self, row: SummaryRow, value: float) -> str:
        title = "Average Precision" if row.metric == "AP" else "Average Recall"
        thresholds = self.params.iouThrs
        iou = f"{row.iou_threshold or thresholds[0]:.2f}"
        if row.iou_threshold is None:
            iou += f":{thresholds[-1]:.2f}"
        max_dets = self.params.maxDets[self._max_dets_index(row)]
        return (
            f" {title:<18} ({row.metric}) @[ IoU={iou:<9} | area={row.area:>6} "
            f"| maxDets={max_dets:>3} ] = {value:.3f}"
        )


def choose_backend(name: str, iou_type: str) -> Backend:
    """Return the scoring function of a backend.

    Args:
        name: "faster" (faster-coco-eval), "pycocotools", or "auto" (faster-coco-eval if installed).
        iou_type: one of `IOU_TYPES`. Keypoints are always evaluated by pycocotools.

    Raises:
        UserError: if "faster" is not installed.
        ValueError: if the name is unknown.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}, expected one of {', '.join(BACKENDS)}")
    if name == "pycocotools" or iou_type == "keypoints":
        return _score_with_pycocotools
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError as error:
        if name == "faster":
            raise UserError(
                f"the evaluation backend 'faster' needs the package faster-coco-eval ({error}): "
                "pip install faster-coco-eval, or use the backend 'pycocotools'"
            ) from error
        return _score_with_pycocotools
    return _score_with_faster_coco_eval


def _score_with_pycocotools(task: ScoringTask) -> dict[str, np.ndarray]:
    """Evaluate with pycocotools, the slow reference in Python."""
    evaluation = COCOeval(*_as_coco_pair(task), iouType=task.params.iouType)
    _copy_settings(task.params, evaluation.params)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    return _arrays(evaluation.eval)


def _score_with_faster_coco_eval(task: ScoringTask) -> dict[str, np.ndarray]:
    """Evaluate with faster-coco-eval, which is compiled."""
    from faster_coco_eval import COCOeval_faster

    evaluation = COCOeval_faster(
        *_as_coco_pair(task), iouType=task.params.iouType, print_function=lambda *_: None
    )
    _copy_settings(task.params, evaluation.params)
    evaluation.evaluate()
    evaluation.accumulate()
    return _arrays(evaluation.eval)


def _as_coco_pair(task: ScoringTask) -> tuple[SimpleNamespace, SimpleNamespace]:
    """Wrap ground truth and detections in objects with the COCO methods that the backends call.

    Unlike real COCO objects these do not index or filter: the backends ask for all annotations.
    """

    def as_coco(annotations: list[Annotation]) -> SimpleNamespace:
        """Stand-in for a ``pycocotools.coco.COCO`` that holds these annotations."""
        return SimpleNamespace(
            imgs=task.images,
            getImgIds=lambda: list(task.images),
            getCatIds=lambda: task.params.catIds,
            getAnnIds=lambda **_: range(len(annotations)),
            loadAnns=lambda _: annotations,
            annToRLE=lambda annotation: annotation["segmentation"],
        )

    return as_coco(task.ground_truth), as_coco(task.detections)


def _copy_settings(params: Params, backend_params: Any) -> None:
    """Copy the settings; the backends sort and replace the lists."""
    for name in ("imgIds", "catIds", "maxDets", "areaRng", "areaRngLbl"):
        setattr(backend_params, name, list(getattr(params, name)))
    for name in ("iouThrs", "recThrs"):
        setattr(backend_params, name, np.asarray(getattr(params, name), dtype=np.float64))
    backend_params.useCats = params.useCats
    if params.iouType == "keypoints":
        backend_params.kpt_oks_sigmas = params.kpt_oks_sigmas


def _arrays(evaluation: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(evaluation[name]) for name in ("precision", "recall", "scores")}


def _mean_of_valid(values: np.ndarray) -> float:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else -1.0

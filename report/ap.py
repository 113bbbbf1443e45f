"""AP by class and size, and precision-recall curves, from a saved evaluation."""

from typing import Any, NamedTuple

import numpy as np

_AREAS = ("all", "small", "medium", "large")


class ClassAP(NamedTuple):
    """AP of a class: mean over IoU 0.50 … 0.95, and at 0.50 and 0.75; NaN without objects."""

    ap: float
    ap50: float
    ap75: float


class SavedEvaluation:
    """Content of an ``eval*.pth`` file.

    Args:
        content: result of `util.plot_utils.load_eval`.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        params = content["params"]
        self._precision = np.asarray(content["precision"])  # (T, R, K, A, M)
        self._thresholds = np.asarray(params.iouThrs)
        self.category_ids: list[Any] = list(params.catIds)
        self.recall = np.asarray(params.recThrs)

    def by_class(self) -> dict[Any, ClassAP]:
        """AP by category id, for classes with objects."""
        table = {}
        for index, category_id in enumerate(self.category_ids):
            precision = self._precision[:, :, index, 0, -1]
            if (precision > -1).any():
                at = [self._mean(precision[self._index(iou)]) for iou in (0.5, 0.75)]
                table[category_id] = ClassAP(self._mean(precision), *at)
        return table

    def by_size(self) -> dict[str, float]:
        """AP of all, small, medium and large objects; sizes without objects are omitted."""
        means = {
            name: self._mean(self._precision[:, :, :, index, -1])
            for index, name in enumerate(_AREAS[: self._precision.shape[3]])
        }
        return {name: mean for name, mean in means.items() if mean == mean}

    def curve(self, iou: float, category_id: Any = None) -> np.ndarray:
        """Precision at each recall (R,), for a class or averaged over all classes (None)."""
        precision = self._precision[self._index(iou), :, :, 0, -1]
        if category_id is not None:
            result: np.ndarray = precision[:, self.category_ids.index(category_id)]
            return result
        known = precision[:, (precision > -1).all(axis=0)]
        return known.mean(axis=1) if known.size else np.full(len(self.recall), np.nan)

    def _index(self, iou: float) -> int:
        return int(np.abs(self._thresholds - iou).argmin())

    @staticmethod
    def _mean(values: np.ndarray) -> float:
        known = values[values > -1]
        return float(known.mean()) if known.size else float("nan")

"""Panoptic quality of prediction files: ground truth, predictions, and the table of results."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from datasets.annotations.coco_file import (
    Row,
    are_objects,
    category_names,
    replace_text_ids,
    text_ids,
)
from datasets.annotations.compact.panoptic import PanopticSegments, read_panoptic
from datasets.annotations.json_files import read_json
from datasets.annotations.panoptic import check_predictions, read_id_map, thing_flags
from datasets.evaluation.panoptic_quality import (
    Quality,
    SegmentMap,
    SegmentMatches,
    match_segments,
    summarize_matches,
)
from util.errors import UserError
from util.text import counted


def pq_compute(
    gt_json_file: str | Path,
    pred_json_file: str | Path,
    gt_folder: str | Path | None = None,
    pred_folder: str | Path | None = None,
) -> Quality:
    """Evaluate prediction files against ground-truth files, and print a table.

    Args:
        gt_json_file: COCO panoptic JSON; every image must have a prediction.
        pred_json_file: JSON with ``annotations`` as in the ground truth.
        gt_folder: folder of the ground-truth PNGs; default: the path of the JSON without ".json".
        pred_folder: folder of the predicted PNGs; default: likewise.

    Returns:
        see `summarize_matches`.

    Raises:
        UserError: if a file is missing or invalid, or an image has no prediction.
    """
    gt_folder = gt_folder or str(gt_json_file).removesuffix(".json")
    pred_folder = Path(pred_folder or str(pred_json_file).removesuffix(".json"))
    truth = PanopticTruth(gt_json_file, gt_folder)
    predicted = {row["image_id"]: row for row in _load_predictions(pred_json_file)}
    missing = [image_id for image_id in truth.image_ids if image_id not in predicted]
    if missing:
        raise UserError(
            f"{pred_json_file} has no prediction for {counted(len(missing), 'images')} of "
            f"{gt_json_file}, such as image id {missing[0]}; predict every image"
        )

    def score(image_id: int) -> SegmentMatches:
        row = predicted[image_id]
        id_map = read_id_map(pred_folder / row["file_name"], image_id, truth.size_hw(image_id))
        return truth.match(image_id, SegmentMap(id_map, row["segments_info"]))

    with ThreadPoolExecutor(num_threads()) as pool:
        matches = list(pool.map(score, truth.image_ids))
    return truth.summarize(matches)


def num_threads() -> int:
    """Number of threads per process for evaluating images; PNG decoding releases the GIL."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(8, (cores or 1) // processes))


@lru_cache(maxsize=1)
def _read_once(ann_file: str, ann_folder: str, _: object) -> PanopticSegments:
    """Read ground truth, unless it was read for the evaluation before."""
    return read_panoptic(ann_file, ann_folder)


def _version(path: str | Path) -> tuple[int, int] | None:
    """Time of the last change of a file, and its size; None if it does not exist."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


class PanopticTruth:
    """Panoptic ground truth.

    Attributes:
        text_ids: id in the file by category id, where it is a string.

    Args:
        ann_file: COCO panoptic JSON.
        ann_folder: folder of its PNGs.

    Raises:
        UserError: if a file is missing or invalid.
    """

    def __init__(self, ann_file: str | Path, ann_folder: str | Path) -> None:
        self._segments = _read_once(str(ann_file), str(ann_folder), _version(ann_file))
        self.ann_file = ann_file
        self._folder = Path(ann_folder)
        categories = self._segments.categories
        self._names = category_names(categories)
        self._is_thing = thing_flags(categories)
        self.text_ids = text_ids(categories)

    @property
    def image_ids(self) -> list[int]:
        """Ids of all images, sorted."""
        return self._segments.ids

    def size_hw(self, image_id: int) -> tuple[int, int]:
        """Height and width of an image in pixels."""
        row = self._segments.image(image_id)
        return row["height"], row["width"]

    def match(self, image_id: int, predicted: SegmentMap) -> SegmentMatches:
        """Match the predicted segments of an image.

        Raises:
            UserError: if the image is unknown, or its files or the prediction are invalid.
        """
        try:
            row = self._segments.map_of(image_id)
        except KeyError:
            raise UserError(
                f"prediction for image id {image_id}, which is not in {self.ann_file}: use the "
                "annotation file of these images"
            ) from None
        id_map = read_id_map(self._folder / row["file_name"], image_id, self.size_hw(image_id))
        return match_segments(SegmentMap(id_map, row["segments_info"]), predicted, image_id)

    def summarize(self, matches: Sequence[SegmentMatches], print_table: bool = True) -> Quality:
        """Call `summarize_matches`; print a table, and in any case unknown categories."""
        quality = summarize_matches(matches, self._is_thing)
        if print_table:
            print(quality_table(quality, self._names))
        unknown = Counter(
            category
            for image in matches
            for category in image.false_positives
            if category not in self._is_thing
        )
        if unknown:
            print(
                counted(
                    unknown.total(),
                    f"segments have a predicted category that is not in {self.ann_file}; "
                    f"ignored ids: {', '.join(map(str, sorted(unknown)))}",
                )
            )
        return quality


def _load_predictions(path: str | Path) -> list[Row]:
    """Return the ``annotations`` of a prediction file.

    Raises:
        UserError: if the file cannot be read or is invalid.
    """
    hint = "use the JSON file written by the evaluation"
    data = read_json(path, "predictions", hint)
    rows = data.get("annotations") if type(data) is dict else None
    if not are_objects(rows):
        raise UserError(
            f'file {path} has no panoptic predictions ("annotations" with image_id, '
            f"file_name and segments_info); {hint}"
        )
    replace_text_ids(rows)
    check_predictions(rows, path)
    return rows


def quality_table(quality: Quality, names: Mapping[int, str]) -> str:
    """Format PQ, SQ and RQ in percent, for the three groups and for each class that occurs.

    Args:
        quality: result of `summarize_matches`.
        names: class name of each category id.
    """
    lines = [f"{'':<24}|    PQ     SQ     RQ  categories", "-" * 58]
    for group in ("All", "Things", "Stuff"):
        lines.append(f"{_percents(group, quality[group])}  {quality[group]['n']:>10}")
    lines += ["", f"{'':<24}|    PQ     SQ     RQ      TP     FP     FN", "-" * 67]
    for category, row in quality["per_class"].items():
        counts = [row["tp"], row["fp"], row["fn"]]
        if any(counts):
            numbers = "".join(f"{count:>7}" for count in counts)
            lines.append(f"{_percents(names[category], row)} {numbers}")
    return "\n".join(lines)


def _percents(name: str, quality: Mapping[str, float]) -> str:
    return f"{name:<24.24}|" + "".join(f"{100 * quality[key]:7.1f}" for key in ("pq", "sq", "rq"))

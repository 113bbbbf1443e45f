"""Panoptic ground truth, and the table of panoptic quality."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from datasets.annotations.coco_file import category_names, text_ids
from datasets.annotations.compact.panoptic import PanopticSegments, read_panoptic
from datasets.annotations.panoptic import read_id_map, thing_flags
from datasets.evaluation.panoptic_quality import (
    Quality,
    SegmentMap,
    SegmentMatches,
    match_segments,
    summarize_matches,
)
from util.errors import UserError
from util.text import counted


def num_threads() -> int:
    """Number of threads per process for evaluating images; PNG decoding releases the GIL."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(8, (cores or 1) // processes))


@lru_cache(maxsize=1)
def _read_once(ann_file: str, ann_folder: str, _: object) -> PanopticSegments:
    """Read ground truth, or return the ground truth that the previous evaluation has read."""
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
        """Call `summarize_matches`; print the table if requested, and always unknown categories."""
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

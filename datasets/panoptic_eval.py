"""Panoptic evaluation of segment maps, on one or more ranks.

`PanopticEvaluator` has the interface and the output files of the original, but each rank evaluates
its own images in `PanopticEvaluator.update`, and ranks exchange only the matched segments.
"""

import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from datasets.annotations.coco_file import Row, category_names, text_ids
from datasets.annotations.compact.panoptic import PanopticSegments, read_panoptic
from datasets.annotations.panoptic import read_id_map, thing_flags
from datasets.evaluation.panoptic_quality import (
    Quality,
    SegmentMap,
    SegmentMatches,
    match_segments,
    summarize_matches,
)
from datasets.evaluation.result_formats import with_own_id
from util.distributed.gathering import broadcast_object, gather_by_id
from util.distributed.processes import is_main_process
from util.errors import UserError
from util.files.checkpoint_file import atomic_write
from util.files.panoptic_png import decode_id_map
from util.text import counted

Prediction = Mapping[str, Any]

PANOPTIC_FOLDER = "panoptic_eval"  # in the output folder of a run
_PREDICTIONS = "predictions.json"


class _Scored(NamedTuple):
    """Entry of ``predictions.json`` and matched segments of an image."""

    entry: Row
    matches: SegmentMatches


class PanopticEvaluator:
    """Evaluates segment maps, and writes them to files.

    Call `update` for each batch, then `synchronize_between_processes` and `summarize`. Only images
    passed to `update` are evaluated, each once.

    Args:
        ann_file: COCO panoptic JSON of the ground truth.
        ann_folder: folder of its PNGs.
        output_dir: folder for the predicted PNGs and ``predictions.json``, in the format of the
            ground truth; None: write nothing.
        print_table: print the table of panoptic quality in `summarize`.

    Raises:
        UserError: if the ground truth is missing or invalid.
    """

    def __init__(
        self,
        ann_file: str | Path,
        ann_folder: str | Path,
        output_dir: str | Path | None = PANOPTIC_FOLDER,
        print_table: bool = True,
    ) -> None:
        self._truth = _read_once(str(ann_file), str(ann_folder), _version(ann_file))
        self._ann_file, self._ann_folder = ann_file, Path(ann_folder)
        self.output_dir = output_dir
        self._print_table = print_table
        if output_dir is not None:
            os.makedirs(output_dir, exist_ok=True)
            if is_main_process():  # written again by `summarize`, after all maps
                (Path(output_dir) / _PREDICTIONS).unlink(missing_ok=True)
        self._scored: dict[int, _Scored] = {}

    def update(self, predictions: Iterable[Prediction]) -> None:
        """Evaluate the segment maps of some images, and write their PNGs.

        Args:
            predictions: dicts with ``image_id``, ``file_name``, ``png_string`` (the map as PNG, at
                the image's size) and ``segments_info``, a list of dicts with ``id`` and
                ``category_id``.

        Raises:
            UserError: if an image is not in the ground truth, or a map has a wrong size or does not
                match its ``segments_info``.
        """
        new: dict[int, Prediction] = {}
        for prediction in predictions:
            image_id = int(prediction["image_id"])
            if image_id not in self._scored:
                new.setdefault(image_id, prediction)
        with ThreadPoolExecutor(num_threads()) as pool:
            self._scored.update(zip(new, pool.map(self._score, new.values()), strict=True))

    def synchronize_between_processes(self) -> None:
        """Gather the results on rank 0. Collective."""
        self._scored = gather_by_id(self._scored)

    def summarize(self) -> Quality | None:
        """On rank 0: print the table of panoptic quality and write ``predictions.json``.

        Returns:
            see `datasets.evaluation.panoptic_quality.summarize_matches`; None on other ranks.
        """
        if not is_main_process():
            return None
        categories = self._truth.categories
        if self.output_dir is not None:
            own_ids = text_ids(categories)
            in_order = [self._scored[image_id] for image_id in sorted(self._scored)]
            entries = [_with_own_ids(scored.entry, own_ids) for scored in in_order]
            with atomic_write(Path(self.output_dir) / _PREDICTIONS, "w") as file:
                json.dump({"annotations": entries}, file)
        matches = [scored.matches for scored in self._scored.values()]
        quality = summarize_matches(matches, thing_flags(categories))
        if self._print_table:
            print(quality_table(quality, category_names(categories)))
        self._report_unknown_categories(matches)
        return quality

    def _report_unknown_categories(self, matches: Sequence[SegmentMatches]) -> None:
        """Print which predicted category ids are not in the ground-truth file, if any."""
        known = {row["id"] for row in self._truth.categories}
        unknown = Counter(
            category
            for image in matches
            for category in image.false_positives
            if category not in known
        )
        if unknown:
            print(
                counted(
                    unknown.total(),
                    f"segments have a predicted category that is not in {self._ann_file}; "
                    f"ignored ids: {', '.join(map(str, sorted(unknown)))}",
                )
            )

    def _score(self, prediction: Prediction) -> _Scored:
        image_id, png = int(prediction["image_id"]), prediction["png_string"]
        segments = prediction["segments_info"]
        segment_map = SegmentMap(decode_id_map(io.BytesIO(png)), segments)
        matches = self._match(image_id, segment_map)
        if self.output_dir is not None:
            path = Path(self.output_dir) / prediction["file_name"]
            with atomic_write(path, durable=False) as file:
                file.write(png)
        entry = {"image_id": image_id, "file_name": prediction["file_name"]}
        return _Scored({**entry, "segments_info": segments}, matches)

    def _match(self, image_id: int, predicted: SegmentMap) -> SegmentMatches:
        """Match the predicted segments of an image with the ground truth."""
        try:
            row, image = self._truth.map_of(image_id), self._truth.image(image_id)
        except KeyError:
            raise UserError(
                f"prediction for image id {image_id}, which is not in {self._ann_file}: use the "
                "annotation file of these images"
            ) from None
        size_hw = image["height"], image["width"]
        id_map = read_id_map(self._ann_folder / row["file_name"], image_id, size_hw)
        return match_segments(SegmentMap(id_map, row["segments_info"]), predicted, image_id)


def _with_own_ids(entry: Row, own_ids: Mapping[int, str]) -> Row:
    """Return an entry with the category ids of the ground-truth file."""
    segments = [with_own_id(row, own_ids) for row in entry["segments_info"]]
    return {**entry, "segments_info": segments}


def build_panoptic_evaluator(
    postprocessors: Mapping[str, Any], data_loader: Any, output_dir: Any, print_table: bool
) -> PanopticEvaluator | None:
    """Build the evaluator of the dataset of a loader; None without a panoptic post-processor.

    Args:
        postprocessors: by name, as in `engine.evaluate`.
        data_loader: its ``dataset`` is a `datasets.coco_panoptic.CocoPanoptic`.
        output_dir: output folder of the run; empty or None: write nothing.
    """
    if "panoptic" not in postprocessors:
        return None
    dataset = data_loader.dataset
    folder = Path(output_dir) / PANOPTIC_FOLDER if output_dir else None
    return PanopticEvaluator(dataset.ann_file, dataset.ann_folder, folder, print_table)


def panoptic_statistics(evaluator: PanopticEvaluator | None) -> dict[str, Any]:
    """Panoptic quality of all, thing and stuff classes, by its names in ``log.txt``. Collective.

    Empty without an evaluator.
    """
    if evaluator is None:
        return {}
    evaluator.synchronize_between_processes()
    quality: Any = broadcast_object(evaluator.summarize())
    return {"PQ_all": quality["All"], "PQ_th": quality["Things"], "PQ_st": quality["Stuff"]}


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

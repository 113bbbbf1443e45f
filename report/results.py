"""Results of a run, read from its output folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.annotations.class_tables import table_of_checkpoint
from datasets.annotations.coco_file import replace_text_ids
from datasets.evaluation.evaluated_data import (
    EvaluatedData,
    data_flags_text,
    ground_truth_hash,
    read_evaluated_data,
)
from datasets.formats.held_out import NO_IMAGES, ImageSplit
from report.ground_truth import GroundTruth
from training.checkpoint import flags_in
from util.errors import UserError
from util.files.checkpoint_file import load_checkpoint
from util.plot_utils import load_eval, read_log

_CHECKPOINTS = ("checkpoint.pth", "best.pth")
_EVALUATIONS = ("eval/latest.pth", "eval.pth")
DETECTIONS = "eval/detections.json"


@dataclass
class Results:
    """Results of a run; fields of missing files are empty.

    Attributes:
        folder: output folder of the run.
        log: one entry per epoch.
        flags: flags of the checkpoint by name.
        versions: versions of Python and packages, and the commit.
        names: class names by category id.
        split: training and validation images of the checkpoint, if images were held out.
        evaluation: arrays of the newest ``eval*.pth``.
        detections: COCO result entries of the newest evaluation; None if there is no file.
        evaluated: data of the evaluations, by file name relative to ``folder``.
        missing: a sentence for each part that the report lacks: what, and how to get it.
    """

    folder: Path
    log: list[dict[str, Any]] = field(default_factory=list)
    flags: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    split: ImageSplit = NO_IMAGES
    evaluation: dict[str, Any] | None = None
    detections: list[dict[str, Any]] | None = None
    evaluated: dict[str, EvaluatedData] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def checkpoint(self) -> Path | None:
        """``best.pth``, else ``checkpoint.pth``, else None."""
        paths = (self.folder / name for name in reversed(_CHECKPOINTS))
        return next((path for path in paths if path.exists()), None)

    @property
    def data_flags(self) -> Mapping[str, Any]:
        """Flags that select the data, from the checkpoint or else from the newest evaluation."""
        if self.flags or DETECTIONS not in self.evaluated:
            return self.flags
        return self.evaluated[DETECTIONS].flags


def read_results(folder: Path) -> Results:
    """Read log, checkpoint, evaluation and detections of a run.

    Raises:
        UserError: if the folder does not exist or contains no results.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: the folder does not exist; give the --output_dir of a run")
    results = Results(folder, evaluated=read_evaluated_data(folder))
    _read_log(results)
    _read_checkpoint(results)
    _read_evaluation(results)
    _read_detections(results)
    if not (results.log or results.evaluation or results.detections):
        raise UserError(
            f"{folder}: contains neither log.txt nor an evaluation; give the --output_dir of a run "
            "that has finished an epoch"
        )
    return results


def _read_log(results: Results) -> None:
    try:
        results.log = [e for e in read_log(results.folder / "log.txt") if isinstance(e, dict)]
    except UserError as error:
        results.missing.append(f"Curves over epochs: {error}")


def _read_checkpoint(results: Results) -> None:
    """Read flags, versions and class names from the first readable checkpoint."""
    errors = []
    for name in _CHECKPOINTS:
        path = results.folder / name
        try:
            content = load_checkpoint(path, mmap=True)
            results.flags = flags_in(content, str(path))
        except UserError as error:
            errors.append(str(error))
            continue
        versions = content.get("versions")
        results.versions = dict(versions) if isinstance(versions, Mapping) else {}
        results.names = dict(table_of_checkpoint(str(path), content).names)
        results.split = ImageSplit.read(content.get("split"))
        return
    part = "Flags, versions and class names"
    if DETECTIONS in results.evaluated:
        results.names = dict(results.evaluated[DETECTIONS].names)
        part = "Flags and versions"
    if results.checkpoint is None:
        errors = [f"no {results.folder / _CHECKPOINTS[0]}"]
    results.missing.append(f"{part}: {errors[0]}")


def _read_evaluation(results: Results) -> None:
    newest = _newest_evaluation(results.folder)
    if newest is None:
        results.missing.append(f"AP by class: no {results.folder}/eval/latest.pth{_hint(results)}")
        return
    try:
        results.evaluation = load_eval(results.folder / newest)
    except UserError as error:
        results.missing.append(f"AP by class: {error}")


def _newest_evaluation(folder: Path, names: Sequence[str] = _EVALUATIONS) -> str | None:
    """The newest of the existing files; None if there is none."""
    found = [name for name in names if (folder / name).exists()]
    return max(found, key=lambda name: (folder / name).stat().st_mtime_ns, default=None)


def _read_detections(results: Results) -> None:
    path = results.folder / DETECTIONS
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        fields = {"image_id", "category_id", "bbox", "score"}
        if not all(fields <= entry.keys() for entry in entries):
            raise ValueError("an entry is not a COCO detection")
        replace_text_ids(entries)
        results.detections = entries
    except FileNotFoundError:
        results.missing.append(
            f"Confusion matrix, thresholds, errors and images: no {path}{_hint(results)}"
        )
    except (OSError, ValueError, AttributeError, TypeError) as error:
        results.missing.append(f"{path} cannot be used ({error}){_hint(results)}")


def _hint(results: Results) -> str:
    """Text to append to a message: how to produce the missing evaluation."""
    command = _evaluate_command(results)
    return f"; create it with {command}, then run python -m report again" if command else ""


def _evaluate_command(results: Results, data: str = "") -> str:
    """Command that evaluates the checkpoint on its own data, or on ``data`` (flags)."""
    if results.checkpoint is None:
        return ""
    words = ["python main.py --eval --resume", results.checkpoint, data]
    return " ".join(str(word) for word in (*words, "--output_dir", results.folder) if word)


def discard_other_data(results: Results, ground_truth: GroundTruth) -> None:
    """Discard detections and an evaluation that belong to other data than the ground truth.

    An earlier evaluation on the data of the ground truth is used instead. Evaluations of earlier
    versions, which do not store their data, are kept.

    Args:
        results: results of a run, changed in place.
        ground_truth: annotations that the report uses.
    """
    current = ground_truth_hash(ground_truth.val)
    other = {name: data for name, data in results.evaluated.items() if data.hash != current}
    newest = _newest_evaluation(results.folder)
    discarded = [name for name in (newest, DETECTIONS) if name in other]
    if not discarded:
        return
    if DETECTIONS in other:
        results.detections = None
    if newest in other:
        same = [name for name in _EVALUATIONS if name in results.evaluated and name not in other]
        earlier = _newest_evaluation(results.folder, same)
        results.evaluation = None if earlier is None else load_eval(results.folder / earlier)
    results.missing.append(_other_data_message(results, discarded, ground_truth.flags))


def _other_data_message(
    results: Results, discarded: Sequence[str], flags: Mapping[str, Any]
) -> str:
    """Say which evaluations are on other data, and how to get a report of them."""
    evaluated = data_flags_text(results.evaluated[discarded[-1]].flags)
    used = data_flags_text(flags)
    sentence = f"{' and '.join(discarded)}: evaluated on "
    if evaluated == used:
        sentence += f"other images or annotations of {evaluated}"
    else:
        sentence += f"other data; for a report of it, add {evaluated} to python -m report"
    command = _evaluate_command(results, used)
    return (
        f"{sentence}; to evaluate the data of this report, run {command}" if command else sentence
    )

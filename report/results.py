"""What a run has left in its output folder, as far as it is there."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.annotations.coco_file import replace_text_ids
from datasets.annotations.run_classes import table_of_checkpoint
from training.checkpoint import flags_in
from util.errors import UserError
from util.files.checkpoint import load_checkpoint
from util.plot_utils import load_eval, read_log

_CHECKPOINTS = ("checkpoint.pth", "best.pth")
_EVALUATIONS = ("eval/latest.pth", "eval.pth")
DETECTIONS = "eval/detections.json"


@dataclass
class Results:
    """Content of an output folder; empty where a file is missing.

    Attributes:
        folder: of the run.
        log: an entry per epoch.
        flags: of the checkpoint, by name.
        versions: of Python and packages, and the commit.
        names: class name by category id.
        evaluation: arrays of the newest ``eval*.pth``.
        detections: COCO result entries of the newest evaluation; None if there is no file.
        missing: for each missing part a sentence: what, and how to get it.
    """

    folder: Path
    log: list[dict[str, Any]] = field(default_factory=list)
    flags: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    evaluation: dict[str, Any] | None = None
    detections: list[dict[str, Any]] | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def checkpoint(self) -> Path | None:
        """``best.pth``, else ``checkpoint.pth``, else None."""
        paths = (self.folder / name for name in reversed(_CHECKPOINTS))
        return next((path for path in paths if path.exists()), None)


def read_results(folder: Path) -> Results:
    """Read log, checkpoint, evaluation and detections of a run.

    Raises:
        UserError: there is no such folder, or nothing of a run in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the --output_dir of a run")
    results = Results(folder)
    _read_log(results)
    _read_checkpoint(results)
    _read_evaluation(results)
    _read_detections(results)
    if not (results.log or results.evaluation or results.detections):
        raise UserError(
            f"{folder}: holds neither log.txt nor an evaluation; give the --output_dir of a run "
            "that has finished an epoch"
        )
    return results


def _read_log(results: Results) -> None:
    try:
        results.log = [e for e in read_log(results.folder / "log.txt") if isinstance(e, dict)]
    except UserError as error:
        results.missing.append(f"Curves over epochs: {error}")


def _read_checkpoint(results: Results) -> None:
    """Flags, versions and class names of the newest checkpoint that can be read."""
    complaints = []
    for name in _CHECKPOINTS:
        path = results.folder / name
        try:
            content = load_checkpoint(path, mmap=True)
            results.flags = flags_in(content, str(path))
        except UserError as error:
            complaints.append(str(error))
            continue
        versions = content.get("versions")
        results.versions = dict(versions) if isinstance(versions, Mapping) else {}
        results.names = dict(table_of_checkpoint(str(path), content).names)
        return
    results.missing.append(f"Flags, versions and class names: {complaints[0]}")


def _read_evaluation(results: Results) -> None:
    paths = [results.folder / name for name in _EVALUATIONS]
    found = [path for path in paths if path.exists()]
    if found:
        newest = max(found, key=lambda path: path.stat().st_mtime_ns)
        try:
            results.evaluation = load_eval(newest)
            return
        except UserError as error:
            results.missing.append(f"AP by class: {error}")
    else:
        results.missing.append(f"AP by class: no {results.folder}/eval/latest.pth{_how(results)}")


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
            f"Confusion matrix, thresholds, errors and images: no {path}{_how(results)}"
        )
    except (OSError, ValueError, AttributeError, TypeError) as error:
        results.missing.append(f"{path} cannot be used ({error}){_how(results)}")


def _how(results: Results) -> str:
    """How to get a missing evaluation."""
    if results.checkpoint is None:
        return ""
    return (
        f"; write it with python main.py --eval --resume {results.checkpoint} "
        f"--output_dir {results.folder} and make the report again"
    )

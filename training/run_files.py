"""Files of a run: checkpoints, log and evaluations, with the same names as in the original."""

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets.evaluation.result_formats import best_boxes, write_detections
from training.checkpoint import Thresholds, best_checkpoint, position_in, with_thresholds
from training.output_folder import lies_in, set_earlier_run_aside
from util.distributed.processes import is_main_process
from util.errors import UserError
from util.files.checkpoint_file import (
    StrPath,
    atomic_write,
    load_checkpoint,
    save_on_master,
    sync_folder,
)

_KEEP_EVERY = 100  # epochs between checkpoints that are kept
_KEEP_EVALUATION_EVERY = 50
_NEWEST, _BEST, _LOG = "checkpoint.pth", "best.pth", "log.txt"
_STEP_PREFIX, _ABANDONED_PREFIX = "checkpoint-step", "abandoned-step"  # then the step number
_PARTIAL_FILES = (".*.pth.*tmp", ".*.pth.tmp", f".{_LOG}.*tmp", "eval/.*.pth.*tmp")


class RunFolder:
    """Writes checkpoints, log and evaluations of a run to ``--output_dir``.

    Only rank 0 writes.

    Args:
        output_dir: the folder, created if it does not exist; empty: nothing is written.
        keep_last: number of most recent checkpoints to keep, ``checkpoint.pth`` included.
        lr_drop: value of ``--lr_drop``.

    Raises:
        UserError: if the folder cannot be created or is not writable.
    """

    def __init__(self, output_dir: str, keep_last: int = 1, lr_drop: int = _KEEP_EVERY):
        self.path = Path(output_dir) if output_dir else None
        self._keep_last, self._lr_drop = keep_last, lr_drop
        if self.path is None or not is_main_process():
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as err:
            raise UserError(
                f"--output_dir {output_dir}: cannot be created or written to ({err.strerror})"
            ) from err

    def holds(self, path: str) -> bool:
        """Whether a checkpoint is in this folder."""
        return self.path is not None and lies_in(path, self.path)

    def start_over(self) -> None:
        """Move the files of an earlier run to a subfolder, for ``--overwrite``."""
        if self.path is not None and is_main_process():
            set_earlier_run_aside(self.path)

    def remove_partial_files(self) -> None:
        """Remove partially written files of a killed run."""
        if self.path is not None and is_main_process():
            for pattern in _PARTIAL_FILES:
                for path in self.path.glob(pattern):
                    path.unlink(missing_ok=True)

    # ---- checkpoints

    def save_checkpoint(self, content: dict[str, Any], epoch: int | None) -> None:
        """Write ``checkpoint.pth``.

        Every 100 and every ``lr_drop`` epochs a copy is kept as ``checkpoint{epoch:04}.pth``. With
        ``keep_last`` above 1 the latest ones are kept as ``checkpoint-step{step:09}.pth``.

        Args:
            content: entries by key, see `training.checkpoint.KEYS`.
            epoch: the epoch that has just been completed; None during an epoch.
        """
        if self.path is None:
            return
        newest = self.path / _NEWEST
        save_on_master(content, newest)
        if not is_main_process():
            return
        intervals = self._lr_drop, _KEEP_EVERY
        if epoch is not None and any((epoch + 1) % interval == 0 for interval in intervals):
            _link_or_copy(newest, self.path / f"checkpoint{epoch:04}.pth")
        if self._keep_last > 1:
            _link_or_copy(newest, self.path / f"{_STEP_PREFIX}{position_in(content)[1]:09}.pth")
            for old in sorted(self.path.glob(f"{_STEP_PREFIX}*.pth"))[: -self._keep_last]:
                old.unlink(missing_ok=True)

    def add_thresholds(
        self,
        thresholds: Thresholds,
        ema_thresholds: Thresholds,
        checkpoint: StrPath | None = None,
        content: Mapping[str, Any] | None = None,
    ) -> None:
        """Add the thresholds of an evaluation to its checkpoint, and to hard links to this file.

        Args:
            thresholds: thresholds of the raw weights, see `training.checkpoint.KEYS`.
            ema_thresholds: thresholds of the EMA weights.
            checkpoint: path of the checkpoint; None: the newest checkpoint.
            content: content of the checkpoint; None: it is read from the file.

        Raises:
            UserError: if the file cannot be read or written.
        """
        if self.path is None or not is_main_process():
            return
        path = Path(checkpoint or self.path / _NEWEST)
        links = [p for p in self.path.glob("checkpoint*.pth") if p != path and p.samefile(path)]
        content = load_checkpoint(path) if content is None else content
        save_on_master(with_thresholds(content, thresholds, ema_thresholds), path)
        for link in links:
            _link_or_copy(path, link)

    def keep_as_best(self, checkpoint: StrPath | None = None, weights: str = "model") -> None:
        """Make ``best.pth`` a copy of a checkpoint.

        Args:
            checkpoint: path of the checkpoint; None: the newest checkpoint.
            weights: key of the weights that scored best; saved as ``best_weights`` unless it is
                ``model``.

        Raises:
            UserError: if the file cannot be written.
        """
        if self.path is None or not is_main_process():
            return
        source, best = Path(checkpoint or self.path / _NEWEST), self.path / _BEST
        if weights == "model":
            _link_or_copy(source, best)
        else:
            save_on_master(best_checkpoint(load_checkpoint(source), weights), best)

    def has_best(self) -> bool:
        """Whether there is a ``best.pth``."""
        return self.path is not None and (self.path / _BEST).exists()

    def load_newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Load the newest readable checkpoint: path and content; None if there is no checkpoint.

        If ``checkpoint.pth`` cannot be read, the copies are tried, newest first.

        Raises:
            UserError: if there are checkpoints, but none can be read.
        """
        if self.path is None:
            return None
        copies = [*self.path.glob("checkpoint?*.pth"), *self.path.glob(_BEST)]
        copies = [path for path in copies if path.exists()]  # skip dangling symlinks
        copies.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        newest = self.path / _NEWEST
        errors = []
        for path in ([newest] if newest.exists() else []) + copies:
            try:
                return path, load_checkpoint(path)
            except UserError as err:
                errors.append(str(err))
                print(f"{err}; trying an earlier checkpoint")
        if errors:
            raise UserError(f"--auto_resume: no checkpoint can be read: {'; '.join(errors)}")
        return None

    def go_back_to(self, epoch: int, step: int) -> None:
        """Set aside checkpoints and log lines written after the checkpoint that is resumed.

        The complete log is kept as ``log-before-epoch{epoch:04}.txt``. Later checkpoints are
        renamed to ``abandoned-step{step:09}.pth``, ``abandoned-checkpoint-epoch{epoch:04}.pth`` and
        ``abandoned-best-epoch{epoch:04}.pth``.

        Args:
            epoch: first epoch that the checkpoint has not completed.
            step: number of completed optimizer steps.
        """
        if self.path is None or not is_main_process():
            return
        for later in sorted(self.path.glob(f"{_STEP_PREFIX}*.pth")):
            number = later.stem.removeprefix(_STEP_PREFIX)
            if number.isdecimal() and int(number) > step:
                _set_aside(later, f"{_ABANDONED_PREFIX}{number}", f"step {step}")
        for kind, pattern in (("best", _BEST), ("checkpoint", "checkpoint[0-9]*.pth")):
            for path in sorted(self.path.glob(pattern)):
                self._set_aside_if_later(path, kind, epoch, step)
        self._set_aside_if_later(self.path / _NEWEST, "checkpoint", epoch, step)
        self._truncate_log(epoch)

    def _set_aside_if_later(self, path: Path, kind: str, epoch: int, step: int) -> None:
        """Rename a checkpoint that was written after this epoch and step."""
        reached = _progress_in(path)
        if reached is not None and reached > (epoch - 1, step):
            name = f"abandoned-{kind}-epoch{reached[0]:04}"
            _set_aside(path, name, f"epoch {epoch - 1}, step {step}")

    # ---- log

    def append_log(self, entry: dict[str, Any]) -> None:
        """Append a JSON object to ``log.txt``. Non-finite numbers are written as null."""
        if self.path is None or not is_main_process():
            return
        with (self.path / _LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(_strict(entry), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_log(self) -> list[dict[str, Any]]:
        """The entries of ``log.txt``, without damaged lines."""
        return [entry for _, entry in self._log_lines() if entry is not None]

    def has_logged(self, epoch: int) -> bool:
        """Whether ``log.txt`` has the training losses of an epoch."""
        return any(e["epoch"] == epoch and "train_loss" in e for e in self.read_log())

    def _log_lines(self) -> list[tuple[str, dict[str, Any] | None]]:
        """Lines of ``log.txt`` with their entries; None for damaged or incomplete lines."""
        if self.path is None or not (self.path / _LOG).exists():
            return []
        text = (self.path / _LOG).read_text(encoding="utf-8", errors="replace")
        return [(line, _entry_of(line)) for line in text.splitlines(keepends=True)]

    def _truncate_log(self, epoch: int) -> None:
        """Remove lines of this and later epochs, and damaged lines, from ``log.txt``.

        The complete log is kept as a copy, unless only an incomplete last line is removed.
        """
        assert self.path is not None
        lines, log = self._log_lines(), self.path / _LOG
        kept = [line for line, entry in lines if entry is not None and entry["epoch"] < epoch]
        if len(kept) == len(lines):
            return
        if len(kept) < len(lines) - (not lines[-1][0].endswith("\n")):
            before = _unused_path(self.path / f"log-before-epoch{epoch:04}.txt", log)
            _link_or_copy(log, before)
            print(
                f"{log}: {len(lines) - len(kept)} lines (damaged, or of epoch {epoch} and later) "
                f"removed; the complete log is in {before}"
            )
        with atomic_write(log, "w") as file:
            file.writelines(kept)

    # ---- evaluations

    def save_epoch_evaluation(self, evaluation: dict[str, Any], epoch: int) -> None:
        """Write precision and recall to ``eval/latest.pth``; every 50 epochs keep a copy."""
        if self.path is None:
            return
        names = ["latest.pth"]
        if epoch % _KEEP_EVALUATION_EVERY == 0:
            names.append(f"{epoch:03}.pth")
        (self.path / "eval").mkdir(exist_ok=True)
        for name in names:
            save_on_master(evaluation, self.path / "eval" / name)

    def save_detections(
        self, detections: list[dict[str, Any]], text_ids: Mapping[int, str] | None = None
    ) -> None:
        """Write the newest detections to ``eval/detections.json``, see `best_boxes`.

        Args:
            detections: COCO result entries with ``bbox``.
            text_ids: original id of categories whose id is a string in the user's files.
        """
        if self.path is not None and is_main_process():
            (self.path / "eval").mkdir(exist_ok=True)
            path = self.path / "eval" / "detections.json"
            write_detections(best_boxes(detections), path, text_ids)

    def save_evaluation(self, evaluation: dict[str, Any]) -> None:
        """Write precision and recall of ``--eval`` to ``eval.pth``."""
        if self.path is not None:
            save_on_master(evaluation, self.path / "eval.pth")


def _entry_of(line: str) -> dict[str, Any] | None:
    """The entry in a line of the log; None for a damaged or incomplete line."""
    try:
        entry = json.loads(line) if line.endswith("\n") else None
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and type(entry.get("epoch")) is int else None


def _progress_in(path: Path) -> tuple[int, int] | None:
    """Last completed epoch and number of steps of a checkpoint; None if it cannot be read."""
    try:
        checkpoint = load_checkpoint(path, mmap=True)
    except UserError:
        return None
    epoch, step = position_in(checkpoint)
    return (epoch, step) if type(epoch) is int and type(step) is int else None


def _set_aside(path: Path, stem: str, after: str) -> None:
    """Rename a checkpoint, and print why."""
    target = _unused_path(path.with_name(f"{stem}.pth"), path)
    path.rename(target)
    path.unlink(missing_ok=True)  # if both were hard links to one file, rename does nothing
    print(f"{path} was written after {after}: renamed to {target.name}")


def _unused_path(target: Path, source: Path) -> Path:
    """Unused path for ``target``: a number is added if it exists and is not ``source``."""
    free, number = target, 1
    while free.exists() and not free.samefile(source):
        number += 1
        free = target.with_name(f"{target.stem}-{number}{target.suffix}")
    return free


def _link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` a hard link or copy, which is not affected when ``source`` is replaced."""
    beside = target.with_name(f".{target.name}.tmp")
    beside.unlink(missing_ok=True)
    try:
        # Resolve symlinks: a link to a symlink would change with every later checkpoint.
        os.link(os.path.realpath(source), beside)
    except OSError:  # a file system without hard links
        with source.open("rb") as file, atomic_write(target) as copy:
            shutil.copyfileobj(file, copy)
        return
    os.replace(beside, target)
    with contextlib.suppress(OSError):
        beside.unlink()  # if both were hard links to one file, replace does nothing
    sync_folder(target.parent)


def _strict(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not support, with None."""
    if isinstance(value, dict):
        return {key: _strict(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

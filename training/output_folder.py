"""Choose the output folder of a training run; files of an earlier run are never overwritten."""

import argparse
import contextlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from util.distributed.gathering import decide_on_main
from util.distributed.processes import is_main_process
from util.errors import UserError
from util.files.folder_lock import locked

_OUTPUTS = Path("outputs")  # below the current directory
# Files that mark a folder as used, and all files that a training run writes.
_RESULTS = ("checkpoint*.pth", "best.pth")
_WRITTEN = (
    *(*_RESULTS, "abandoned-*.pth", "bad_step.pth", "log.txt", "log-before-epoch*.txt"),
    *("eval", "eval.pth", "panoptic_eval", "detections.png", "panoptic.png"),
    *("config.txt", "config-*.txt"),
    *("report.html", "figures", "tensorboard"),
)


def results_in(folder: Path) -> list[str]:
    """Names of the checkpoints in a folder, and of the log if it is not empty."""
    log = folder / "log.txt"
    logs = [log] if log.is_file() and log.stat().st_size > 0 else []
    return [path.name for path in logs + _matching(folder, _RESULTS)]


def lies_in(path: str, folder: Path) -> bool:
    """Whether a file is directly in a folder, after resolving symlinks."""
    return Path(path).resolve().parent == folder.resolve()


@contextlib.contextmanager
def build_output_folder(args: argparse.Namespace, run_name: str) -> Iterator[str]:
    """Choose the output folder before anything is loaded. Collective: call on every rank.

    Args:
        run_name: without ``args.output_dir`` training gets the folder ``outputs/{run_name}-N``;
            empty: no folder.

    Yields:
        the folder; empty: no folder.

    Raises:
        UserError: if the folder contains another run, or cannot be created.
    """
    with contextlib.ExitStack() as stack:
        folder = args.output_dir
        if run_name and not folder and not args.eval:
            folder = stack.enter_context(numbered_folder(run_name))
            print(_describe_new_folder(folder, args.resume))
        if folder and not (args.eval or args.skip_checks):
            # Before the next check: another run may be writing its first files.
            stack.enter_context(locked(Path(folder)))
        if folder and not (args.eval or args.auto_resume or args.overwrite):
            refuse_used_folder(folder, args.resume)
        if args.save_every and not folder:
            raise UserError("--save_every requires --output_dir")
        if args.tensorboard and not folder:
            raise UserError("--tensorboard requires --output_dir")
        if not folder and not args.eval:
            print("No --output_dir: this run saves neither checkpoints nor logs")
        yield folder


def _describe_new_folder(folder: str, resume: str) -> str:
    text = f"No --output_dir given: this run writes to {folder}"
    if resume and Path(resume).is_file():
        text += f", not to the folder of {resume} (add --output_dir {Path(resume).parent} for that)"
    return f"{text}; to continue it, add --output_dir {folder} --auto_resume"


def refuse_used_folder(output_dir: str, resume: str = "") -> None:
    """Raise if a new run would write to the folder of an earlier run. Collective.

    Args:
        output_dir: folder that the new run would write to; it need not exist.
        resume: checkpoint that the run continues, or empty; it may be in the same folder.

    Raises:
        UserError: on every rank; the message lists the files and the possible fixes.
    """

    def refuse() -> None:
        """Raise if the folder is used; called on rank 0."""
        folder = Path(output_dir)
        found = results_in(folder)
        if not found or (resume and lies_in(resume, folder)):
            return
        aside = numbered_path(folder, "earlier-{}").name
        shown = ", ".join(found[:4]) + (", …" if len(found) > 4 else "")
        raise UserError(
            f"--output_dir {output_dir}: contains an earlier run ({shown}), which would be "
            "overwritten; add --auto_resume to continue that run, choose a different folder, or "
            f"add --overwrite to start over (the old files are moved to {aside}/)"
        )

    decide_on_main(refuse)


@contextlib.contextmanager
def numbered_folder(name: str) -> Iterator[str]:
    """Create ``outputs/NAME-N`` with the first free number N. Collective: call on every rank.

    It is removed again if nothing was written to it, together with ``outputs`` if that was created
    here.

    Args:
        name: name of the config file or dataset; characters except letters, digits, dot, dash and
            underscore are replaced.

    Yields:
        the folder, relative to the current directory.

    Raises:
        UserError: if it cannot be created.
    """
    is_new = not _OUTPUTS.exists()
    folder = Path(decide_on_main(lambda: str(_make_numbered(re.sub(r"[^\w.-]+", "_", name)))))
    try:
        yield str(folder)
    finally:
        if is_main_process():
            with contextlib.suppress(OSError):  # the folder is not empty
                folder.rmdir()
                if is_new:
                    _OUTPUTS.rmdir()


def set_earlier_run_aside(folder: Path) -> None:
    """Move the files of an earlier run to the new subfolder ``earlier-N``.

    All other files are kept. Call it on rank 0 only.
    """
    if not results_in(folder):
        return
    aside = numbered_path(folder, "earlier-{}")
    aside.mkdir()
    moved = _matching(folder, _WRITTEN)
    for path in moved:
        path.rename(aside / path.name)
    print(f"--overwrite: {len(moved)} files and folders of an earlier run are now in {aside}")


def _make_numbered(name: str) -> Path:
    number = 1
    while True:
        folder = _OUTPUTS / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
        except OSError as err:
            raise UserError(
                f"{folder}: cannot be created ({err.strerror}); choose a folder with --output_dir, "
                'or save nothing with --output_dir ""'
            ) from err


def numbered_path(folder: Path, name: str) -> Path:
    """The first path that does not exist, with 1, 2, … in place of ``{}`` in its name."""
    paths = (folder / name.format(number) for number in itertools.count(1))
    return next(path for path in paths if not path.exists())


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern)})

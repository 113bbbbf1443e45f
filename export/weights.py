"""Convert weights between file formats: ``python -m export.weights --help``.

Reads checkpoints of main.py, released files, URLs and safetensors files, with our key names or
Detectron2's. Writes a checkpoint (.pth) or a safetensors file.
"""

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("python -m export.weights")

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from datasets.formats.held_out import NO_IMAGES, ImageSplit
from export.architecture import FLAG_NAMES
from export.key_names import from_detectron2, is_detectron2
from models.weights import model_state
from training.checkpoint import (
    averaged_weights_in,
    best_f1_threshold_in,
    classes_in,
    flags_in,
    report_better_average,
)
from util.cli.command_line import ArgumentParser, run_command
from util.errors import UserError
from util.files.checkpoint_file import (
    StrPath,
    atomic_write,
    check_replaceable,
    load_checkpoint,
    save_checkpoint,
)
from util.files.safetensors_file import SUFFIX, checkpoint_metadata, safetensors_bytes
from util.files.temporary import removed_on_sigterm

EMA_HELP = "use the EMA weights (checkpoints of runs with --ema_decay)"
_PROGRAM = "python -m export.weights"
# Flags that are stored with the weights: architecture, image sizes, normalization, meaning of
# the category ids, minimum score of segments, meaning of the scores (fine-tuning keeps it).
_KEPT_FLAGS = (
    *FLAG_NAMES,
    *("scales", "max_size", "image_mean", "image_std"),
    *("dataset_file", "panoptic_threshold", "iou_targets"),
)
_OF_FLAGS = (bool, int, float, str, list, tuple, type(None))  # types of values


def read_weights(path_or_url: StrPath, averaged: bool = False) -> dict[str, Any]:
    """Read weights of any format as a checkpoint.

    Args:
        path_or_url: a file or address that `util.files.checkpoint_file.load_checkpoint` reads, with
            our key names or Detectron2's.
        averaged: return the averaged (EMA) weights of a run with ``--ema_decay``.

    Returns:
        A checkpoint with the weights under ``model``, in our key names. If the file has them, also
        ``args`` (flags by name), ``categories`` (names by category id), ``is_thing`` (by category
        id), ``category_ids`` (of the rows of the classification head), ``unused_ids``
        (of rows without a class, in files from other programs), ``thresholds`` (``best_f1`` of
        these weights) and ``split`` (names of the images that were trained on and held out).

    Raises:
        UserError: the file is missing, damaged, of another kind, or has no EMA weights.
    """
    source = os.fspath(path_or_url)
    checkpoint = load_checkpoint(source)
    best_f1 = best_f1_threshold_in(checkpoint, averaged)
    if averaged:
        weights = averaged_weights_in(checkpoint, source)
        if weights is None:
            raise UserError(f"{source}: contains no EMA weights (--ema_decay): omit --ema")
        checkpoint["model"] = weights
    else:
        report_better_average(checkpoint, source, "--ema takes them")
    state = model_state(checkpoint, source)
    if best_f1 is not None:
        checkpoint["thresholds"] = {"best_f1": best_f1}
    else:
        checkpoint.pop("thresholds", None)
    if not is_detectron2(state):
        return checkpoint
    others = checkpoint if "model" in checkpoint else {}
    return {**others, "model": from_detectron2(state, source)}


def flags_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of the run that wrote a checkpoint; empty if it stores none.

    Invalid entries do not prevent the export of weights: they are left out.
    """
    try:
        flags = flags_in(checkpoint, "")
    except UserError:
        return {}
    return {name: value for name, value in flags.items() if isinstance(value, _OF_FLAGS)}


def write_weights(path: StrPath, checkpoint: Mapping[str, Any]) -> None:
    """Write the weights of a checkpoint with flags and classes, without the training state.

    Names of held-out images are written as hashes, so that a new run on this data keeps the split.

    Args:
        path: a safetensors file if it ends in ``.safetensors``, else a file of `torch.save`.
        checkpoint: a checkpoint of `read_weights`.

    Raises:
        UserError: the file cannot be written.
    """
    state = model_state(checkpoint, "the checkpoint")
    flags = {k: v for k, v in flags_of(checkpoint).items() if k in _KEPT_FLAGS}
    categories, is_thing = classes_in(checkpoint)
    entries: dict[str, Any] = {"args": flags, "categories": categories, "is_thing": is_thing}
    for key, kind in (("category_ids", list), ("thresholds", dict)):
        entries[key] = checkpoint.get(key) if isinstance(checkpoint.get(key), kind) else None
    split = ImageSplit.read(checkpoint.get("split"))
    entries["split"] = split.hashed().saved() if split != NO_IMAGES else None
    notes: dict[str, Any] = {name: entry for name, entry in entries.items() if entry}
    if isinstance(checkpoint.get("unused_ids"), list):  # if empty: all rows may be classes
        notes["unused_ids"] = checkpoint["unused_ids"]
    if "epoch" in checkpoint:
        notes["epoch"] = checkpoint["epoch"]
    if Path(path).suffix != SUFFIX:
        save_checkpoint({"model": state, **notes}, path)
        return
    write_safetensors_file(path, state, checkpoint_metadata(notes))


def write_safetensors_file(
    path: StrPath, state: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file atomically.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        with atomic_write(path) as file:
            file.write(safetensors_bytes(state, metadata))
    except OSError as err:
        raise cannot_be_written(path, err) from err


def cannot_be_written(output: StrPath, err: OSError) -> UserError:
    """The error message for a failed write."""
    return UserError(f"{output} cannot be written ({err.strerror}): choose a different path")


def check_folder_of(output: StrPath) -> None:
    """Check that the folder of ``output`` exists.

    Raises:
        UserError: it does not.
    """
    if not Path(output).absolute().parent.is_dir():
        raise UserError(f"{output}: its folder does not exist; create it first")


def check_output_file(output: StrPath, source: StrPath | None = None) -> None:
    """Check that ``output`` can be written as a file.

    Args:
        source: file or URL that is read; it may have the state of a training, and is not replaced.

    Raises:
        UserError: it is a folder, a device, a pipe or ``source``, or its folder does not exist.
    """
    check_replaceable(output)
    check_folder_of(output)
    check_not_source(output, source)


def check_not_source(output: StrPath, source: StrPath | None) -> None:
    """Raise a UserError if the file ``output`` is ``source``, a file or URL that is read."""
    found = [path for path in (source, output) if path is not None and os.path.exists(path)]
    if len(found) == 2 and os.path.samefile(*found):
        raise UserError(f"{output} is the file that is read: choose a different output file")


@contextlib.contextmanager
def staged_files(folder: Path) -> Iterator[Path]:
    """A temporary folder, for a ``with`` block; its files go to ``folder`` at the end of the block.

    If the block raises, or SIGTERM ends the process, nothing changes. Files are copied in
    reversed alphabetical order: ``model.onnx.data`` before ``model.onnx``.

    Args:
        folder: created at the end if it does not exist; its parent must exist.
    """
    # An existing folder may be on another disk than the folder that it is in.
    place = folder if folder.exists() else folder.absolute().parent
    with (
        tempfile.TemporaryDirectory(dir=place, prefix=".export-") as name,
        removed_on_sigterm(temporary := Path(name)),
    ):
        yield temporary
        folder.mkdir(exist_ok=True)
        for file in sorted(temporary.iterdir(), reverse=True):
            with file.open("rb") as written, atomic_write(folder / file.name) as copy:
                shutil.copyfileobj(written, copy)


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 after a user error."""
    parser = ArgumentParser(
        prog=_PROGRAM,
        description="Convert checkpoints between .pth and .safetensors; weights are not changed.",
    )
    parser.add_argument("input", help="checkpoint (.pth) or safetensors file, or its URL")
    parser.add_argument("output", help="file to write: .pth or .safetensors")
    parser.add_argument("--ema", action="store_true", help=EMA_HELP)

    def command() -> None:
        """Parse the flags and convert the file."""
        args = parser.parse_args(argv)
        check_output_file(args.output, args.input)
        checkpoint = read_weights(args.input, args.ema)
        write_weights(args.output, checkpoint)
        print(f"{len(model_state(checkpoint, args.input))} tensors written to {args.output}")

    return run_command(_PROGRAM, command)


if __name__ == "__main__":
    sys.exit(run())

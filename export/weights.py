"""Weights in any format that we read, as a plain checkpoint: ``python -m export.weights --help``.

Reads checkpoints of main.py, released files, addresses, safetensors files, and any of these with
Detectron2's key names. Writes a checkpoint (.pth) or a safetensors file.
"""

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("python -m export.weights")

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from export.architecture import FLAG_NAMES
from export.detectron2 import from_detectron2, is_detectron2
from models.weights import model_state
from training.checkpoint import averaged_weights_in, classes_in, flags_in, report_better_average
from util.cli.command_line import ArgumentParser, run_command
from util.errors import UserError
from util.files.checkpoint import StrPath, atomic_write, load_checkpoint, save_checkpoint
from util.files.safetensors_file import SUFFIX, checkpoint_notes, safetensors_bytes

EMA_HELP = "take the averaged weights of a run with --ema_decay"
_PROGRAM = "python -m export.weights"
# Flags that go along with weights: those of the model, and the sizes of the images it is made for.
# And what the ids of its labels are those of.
_KEPT_FLAGS = (*FLAG_NAMES, "scales", "max_size", "dataset_file")


def read_weights(path_or_url: StrPath, averaged: bool = False) -> dict[str, Any]:
    """Read weights of any format as a checkpoint.

    Args:
        path_or_url: whatever `util.files.checkpoint.load_checkpoint` reads, perhaps with
            Detectron2's key names.
        averaged: the weights that training with ``--ema_decay`` has averaged, in place of the last.

    Returns:
        a checkpoint with the weights under ``model``, in our key names, and where the file says so
        ``args`` (a dict of flags), ``categories`` (names by category id) and ``is_thing`` (by
        category id).

    Raises:
        UserError: no such file, a damaged or foreign one, or one without averages.
    """
    source = os.fspath(path_or_url)
    checkpoint = load_checkpoint(source)
    if averaged:
        weights = averaged_weights_in(checkpoint, source)
        if weights is None:
            raise UserError(f"{source}: holds no averaged weights (--ema_decay): leave out --ema")
        checkpoint["model"] = weights
    else:
        report_better_average(checkpoint, source, "--ema takes them")
    state = model_state(checkpoint, source)
    if not is_detectron2(state):
        return checkpoint
    others = checkpoint if "model" in checkpoint else {}
    return {**others, "model": from_detectron2(state, source)}


def flags_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of the run that wrote a checkpoint; none where it does not say."""
    try:
        return dict(flags_in(checkpoint, ""))
    except UserError:  # weights are exported whatever else a file holds
        return {}


def write_weights(path: StrPath, checkpoint: Mapping[str, Any]) -> None:
    """Write the weights of a checkpoint and what tells its architecture, and nothing else.

    Args:
        path: a name in ``.safetensors``, or any other for a file of `torch.save`.
        checkpoint: as of `read_weights`.

    Raises:
        UserError: the file cannot be written.
    """
    state = model_state(checkpoint, "the checkpoint")
    flags = {k: v for k, v in flags_of(checkpoint).items() if k in _KEPT_FLAGS}
    categories, is_thing = classes_in(checkpoint)
    told = {"args": flags, "categories": categories, "is_thing": is_thing}
    notes: dict[str, Any] = {name: entries for name, entries in told.items() if entries}
    if "epoch" in checkpoint:
        notes["epoch"] = checkpoint["epoch"]
    if Path(path).suffix != SUFFIX:
        save_checkpoint({"model": state, **notes}, path)
        return
    write_safetensors_file(path, state, checkpoint_notes(notes))


def write_safetensors_file(
    path: StrPath, state: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file that replaces another as a whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        with atomic_write(path) as file:
            file.write(safetensors_bytes(state, metadata))
    except OSError as err:
        raise cannot_be_written(path, err) from err


def cannot_be_written(output: StrPath, err: OSError) -> UserError:
    """The mistake that an error of the disk stands for."""
    return UserError(f"{output} cannot be written ({err.strerror}): choose another place")


def check_folder_of(output: StrPath) -> None:
    """See that there is a folder to write ``output`` into, before the work.

    Raises:
        UserError: there is none.
    """
    if not Path(output).absolute().parent.is_dir():
        raise UserError(f"{output}: its folder does not exist; make it first")


def check_output_file(output: StrPath) -> None:
    """See that a file ``output`` can be written.

    Raises:
        UserError: it is a folder, or there is none to write it into.
    """
    if Path(output).is_dir():
        raise UserError(f"{output}: is a folder; give the name of a file")
    check_folder_of(output)


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 after a mistake of the user."""
    parser = ArgumentParser(
        prog=_PROGRAM, description="Convert weights between formats, bit for bit."
    )
    parser.add_argument("input", help="checkpoint (.pth), its address, or safetensors file")
    parser.add_argument("output", help="file to write: .pth or .safetensors")
    parser.add_argument("--ema", action="store_true", help=EMA_HELP)

    def command() -> None:
        args = parser.parse_args(argv)
        check_output_file(args.output)
        checkpoint = read_weights(args.input, args.ema)
        write_weights(args.output, checkpoint)
        print(f"{len(model_state(checkpoint, args.input))} tensors written to {args.output}")

    return run_command(_PROGRAM, command)


if __name__ == "__main__":
    sys.exit(run())

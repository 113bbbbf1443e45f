"""Weights in any format that we read, as a plain checkpoint: ``python -m export.weights --help``.

Reads checkpoints of main.py, released files, addresses, safetensors files, and any of these with
Detectron2's key names. Writes a checkpoint (.pth) or a safetensors file.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from export.architecture import FLAG_NAMES
from export.detectron2 import from_detectron2, is_detectron2
from util.checkpoint import StrPath, atomic_write, load_checkpoint, save_checkpoint
from util.command_line import ArgumentParser, run_command
from util.errors import UserError
from util.safetensors_file import SUFFIX, checkpoint_notes, safetensors_bytes
from util.weights import model_state

_PROGRAM = "python -m export.weights"
# Flags that go along with weights: those of the model, and the sizes of the images it is made for.
_KEPT_FLAGS = (*FLAG_NAMES, "scales", "max_size")


def read_weights(path_or_url: StrPath) -> dict[str, Any]:
    """Read weights of any format as a checkpoint.

    Args:
        path_or_url: whatever `util.checkpoint.load_checkpoint` reads, perhaps with Detectron2's key
            names.

    Returns:
        a checkpoint with the weights under ``model``, in our key names, and where the file says so
        ``args`` (a dict of flags) and ``categories`` (names by category id).

    Raises:
        UserError: no such file, a damaged or foreign one.
    """
    source = os.fspath(path_or_url)
    checkpoint = load_checkpoint(source)
    state = model_state(checkpoint, source)
    if not is_detectron2(state):
        return checkpoint
    others = checkpoint if "model" in checkpoint else {}
    return {**others, "model": from_detectron2(state, source)}


def flags_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of the run that wrote a checkpoint; none where it does not say."""
    args = checkpoint.get("args", {})
    return dict(args) if isinstance(args, Mapping) else dict(vars(args))


def write_weights(path: StrPath, checkpoint: Mapping[str, Any]) -> None:
    """Write the weights of a checkpoint and what tells its architecture, and nothing else.

    Args:
        path: a name in ``.safetensors``, or any other for a file of `torch.save`.
        checkpoint: as of `read_weights`.

    Raises:
        UserError: the file cannot be written.
    """
    state = model_state(checkpoint, "the checkpoint")
    notes = {name: checkpoint[name] for name in ("categories", "epoch") if name in checkpoint}
    flags = {k: v for k, v in flags_of(checkpoint).items() if k in _KEPT_FLAGS}
    if flags:
        notes["args"] = flags
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
        raise UserError(f"{path} cannot be written ({err.strerror}): choose another place") from err


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 after a mistake of the user."""
    parser = ArgumentParser(
        prog=_PROGRAM, description="Convert weights between formats, bit for bit."
    )
    parser.add_argument("input", help="checkpoint (.pth), address or safetensors file")
    parser.add_argument("output", help="file to write: .pth or .safetensors")

    def command() -> None:
        args = parser.parse_args(argv)
        checkpoint = read_weights(args.input)
        write_weights(args.output, checkpoint)
        print(f"{len(model_state(checkpoint, args.input))} tensors written to {args.output}")

    return run_command(_PROGRAM, command)


if __name__ == "__main__":
    sys.exit(run())

"""The command ``python -m export.huggingface``."""

import argparse
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from export.architecture import FLAG_NAMES, Architecture
from export.check import BATCH_SIZES, CheckFailedError, check, padded_batches
from export.command import add_check_flags, run_checked, sizes_to_check
from export.huggingface.config import uses_timm
from export.huggingface.folder import (
    CONFIG,
    PREPROCESSOR,
    WEIGHTS,
    load_huggingface_model,
    read_folder,
    read_json,
    write_folder,
)
from export.source import add_model_flags, source_of
from export.weights import (
    cannot_be_written,
    check_folder_of,
    check_not_source,
    check_output_file,
    staged_files,
    write_weights,
)
from export.wrapper import ExportWrapper, SizeHW
from models.segmentation import DETRsegm
from util.cli.command_line import ArgumentParser, FlagGroup
from util.errors import UserError
from util.files.checkpoint_file import check_replaceable

_PROGRAM = "python -m export.huggingface"
_TOLERANCE = 1e-4


def _export(args: argparse.Namespace) -> None:
    """Write to a temporary folder, check it, and move its files to --output."""
    output = Path(args.output)
    check_folder_of(args.output)
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file; give the name of a folder")
    for name in (CONFIG, PREPROCESSOR, WEIGHTS):
        check_replaceable(output / name)
    check_not_source(output / WEIGHTS, args.checkpoint or args.weights)
    source = source_of(args)
    if source.is_minimal:
        raise UserError(f"--hub {source.name}: Hugging Face has no such model")
    sizes_hw = sizes_to_check(args, 1, source.architecture.largest_side)
    try:
        with staged_files(output) as folder:
            write_folder(source, folder)
            _check_round_trip(source.model.state_dict(), folder)
            _check_outputs(source.model, folder, sizes_hw, args)
    except OSError as err:
        raise cannot_be_written(args.output, err) from err
    print(f"written to {output}")


def _check_round_trip(state: Mapping[str, Tensor], folder: Path) -> None:
    reread = read_folder(folder)[0]["model"]
    ours = {key: v for key, v in state.items() if not key.endswith(".num_batches_tracked")}
    wrong = [key for key in ours if key not in reread or not torch.equal(ours[key], reread[key])]
    if wrong or len(reread) != len(ours):
        raise CheckFailedError(f"{len(wrong)} tensors change in a round trip, such as {wrong[:1]}")
    print(f"{len(ours)} tensors are identical after a round trip")


def _check_outputs(
    model: nn.Module, folder: Path, sizes_hw: Sequence[SizeHW], args: argparse.Namespace
) -> None:
    """Compare our model with the one that transformers loads from a folder, if it is installed."""
    needed = ["transformers", *(["timm"] if uses_timm(read_json(folder / CONFIG)) else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{' and '.join(missing)} not installed: outputs are not compared")
        return
    print("largest differences between Hugging Face's model and ours:")
    theirs = load_huggingface_model(folder, isinstance(model, DETRsegm))
    batches = padded_batches(sizes_hw, args.check_batches or BATCH_SIZES)
    differences = check(ExportWrapper(model, raw=True).eval(), theirs, batches, args.tolerance)
    print(f"  overall: {differences}")


def _import(args: argparse.Namespace) -> None:
    check_output_file(args.output, Path(args.folder) / WEIGHTS)
    checkpoint, model = read_folder(Path(args.folder))
    architecture = Architecture(**{name: checkpoint["args"][name] for name in FLAG_NAMES})
    sizes_hw = sizes_to_check(args, 1, architecture.largest_side)
    _check_outputs(model, Path(args.folder), sizes_hw, args)
    write_weights(args.output, checkpoint)
    print(f"{len(checkpoint['model'])} tensors written to {args.output}")


def build_parser() -> ArgumentParser:
    """Create the parser with one subcommand per direction."""
    parser = ArgumentParser(
        prog=_PROGRAM,
        description="Convert to and from Hugging Face's DETR, offline.",
        fromfile_prefix_chars="@",
    )
    directions = parser.add_subparsers(dest="direction", required=True)
    usage = f"{_PROGRAM} to (--checkpoint FILE | --hub NAME) --output FOLDER [flags]"
    to = directions.add_parser("to", usage=usage, help="write a Hugging Face folder")
    add_model_flags(to)
    FlagGroup(to, "export").add("--output", "folder to write, created if missing", required=True)
    add_check_flags(to, _TOLERANCE)
    back = directions.add_parser("from", help="convert a Hugging Face folder to a checkpoint")
    back.add_argument("folder", help="folder with config.json and model.safetensors")
    FlagGroup(back, "import").add("--output", "file: .pth or .safetensors", required=True)
    add_check_flags(back, _TOLERANCE)
    return parser


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, see `export.command.run_export`."""

    def command() -> None:
        """Parse the flags, then convert in the given direction."""
        args = build_parser().parse_args(argv)
        (_export if args.direction == "to" else _import)(args)

    return run_checked(_PROGRAM, command)

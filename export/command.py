"""The command line of the exporters: flags, export, check of the written file, exit status."""

import argparse
import importlib.util
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from datasets.coco import IMAGENET_MEAN, IMAGENET_STD
from export.check import (
    BATCH_SIZES,
    SIZES_HW,
    TOLERANCE,
    CheckFailedError,
    Differences,
    Exported,
    SizeHW,
    check,
    padded_batches,
)
from export.source import Source, add_model_flags, source_of
from export.weights import cannot_be_written, check_output_file
from export.wrapper import Example, ExportWrapper
from util.cli.command_line import ArgumentParser, FlagGroup, positive_number, run_command
from util.errors import UserError
from util.files.checkpoint import atomic_write

# Any small size with different height and width that is not among the checked sizes.
_EXAMPLE_HW = (96, 128)


@dataclass(frozen=True)
class Format:
    """A file format for exported models.

    Attributes:
        program: name of the command, for messages.
        description: description of the command for ``--help``.
        packages: packages that must be installed.
        write: exports a wrapped model, traced with example images and padding mask, to an open
            file, with metadata (text by name).
        load: loads an exported file as a callable.
        smallest_side: minimum side of input images in pixels.
    """

    program: str
    description: str
    packages: tuple[str, ...]
    write: Callable[[ExportWrapper, Example, Mapping[str, str], IO[bytes]], None]
    load: Callable[[Path], Exported]
    smallest_side: int = 1


def run_export(export_format: Format, argv: Sequence[str] | None = None) -> int:
    """Export a model, check the file against PyTorch, and return the exit status.

    Returns:
        0: written and checked. 1: the check failed, and the file is removed. 2: user error.
        130: interrupted. Every status except 0 comes with one line on stderr.
    """

    def command() -> None:
        args = _parser(export_format).parse_args(argv)
        require(export_format.packages, export_format.program)
        check_output_file(args.output)
        source = source_of(args)
        set_sizes(args, export_format.smallest_side, source.architecture.largest_side)
        try:
            _export(export_format, source, args)
        except OSError as err:
            raise cannot_be_written(args.output, err) from err

    return run_checked(export_format.program, command)


def run_checked(program: str, command: Callable[[], None]) -> int:
    """Like `util.cli.command_line.run_command`, with status 1 and one line for a failed check."""
    failed = False

    def guarded() -> None:
        nonlocal failed
        try:
            command()
        except CheckFailedError as err:
            failed = True
            print(f"{program}: check failed: {err}; nothing is written", file=sys.stderr)

    return run_command(program, guarded) or int(failed)


def require(packages: Sequence[str], program: str) -> None:
    """Check that packages are installed.

    Raises:
        UserError: a package is missing.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        names = " ".join(missing)
        raise UserError(f"{program} needs {names}, not installed: pip install {names}")


def _parser(export_format: Format) -> ArgumentParser:
    parser = ArgumentParser(
        prog=export_format.program,
        description=export_format.description,
        fromfile_prefix_chars="@",
    )
    add_model_flags(parser)
    group = FlagGroup(parser, "export")
    group.add("--output", "file to write", required=True)
    raw = "export the outputs pred_logits and pred_boxes instead of scores, labels and boxes"
    group.add_switch("--raw", raw)
    add_check_flags(parser, TOLERANCE)
    return parser


def add_check_flags(parser: ArgumentParser, tolerance: float) -> None:
    """Add the flags for the comparison with PyTorch."""
    group = FlagGroup(parser, "check")
    sizes = [f"{height}x{width}" for height, width in SIZES_HW]
    group.add(
        "--check_sizes",
        "input sizes HEIGHTxWIDTH at which the outputs are compared with PyTorch (default: "
        f"{' '.join(sizes)}, or the model's largest)",
        nargs="+",
        type=_size_hw,
        default=None,
    )
    group.add(
        "--check_batches",
        "batch sizes at which the outputs are compared with PyTorch (default: "
        f"{' '.join(map(str, BATCH_SIZES))})",
        nargs="+",
        type=positive_number,
        default=None,
    )
    tolerance_help = "maximum absolute difference of probabilities and relative boxes"
    group.add("--tolerance", tolerance_help, type=float, default=tolerance)


def _size_hw(text: str) -> SizeHW:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 800x1066")
    return int(match[1]), int(match[2])


def _export(export_format: Format, source: Source, args: argparse.Namespace) -> None:
    """Write to a temporary file, check it, and rename it to --output."""
    largest_side = source.architecture.largest_side
    wrapper = ExportWrapper(source.model, args.raw, largest_side).eval().requires_grad_(False)
    example = next(padded_batches([_EXAMPLE_HW], [2]))
    with atomic_write(args.output) as file:
        export_format.write(wrapper, example, metadata_of(source), file)
        file.flush()
        written = Path(file.name)
        size = written.stat().st_size / 2**20
        print(f"{source.name}: {size:.0f} MiB; largest differences from PyTorch:", flush=True)
        differences = check_with_flags(wrapper, export_format.load(written), args)
        print(f"  overall: {differences}")
    print(f"written to {args.output}")


def set_sizes(args: argparse.Namespace, smallest_side: int, largest_side: float) -> None:
    """Check the image sizes of the comparison, or set their defaults, within the range of a model.

    Args:
        args: has the flags of `add_check_flags`; ``check_sizes`` is set if it was not given.
        smallest_side: minimum side of images in pixels, for the file format.
        largest_side: maximum side of images in pixels, for the model.

    Raises:
        UserError: a given size is out of range.
    """
    if args.check_sizes is None:
        fitting = ((min(h, largest_side), min(w, largest_side)) for h, w in SIZES_HW)
        args.check_sizes = list(dict.fromkeys(fitting))
    for height, width in args.check_sizes:
        if min(height, width) < smallest_side or max(height, width) > largest_side:
            most = f" and at most {largest_side:.0f}" if largest_side < math.inf else ""
            raise UserError(
                f"--check_sizes {height}x{width}: each side must have at least {smallest_side}"
                f"{most} pixels"
            )


def check_with_flags(
    wrapper: ExportWrapper, exported: Exported, args: argparse.Namespace
) -> Differences:
    """Run `export.check.check` with the flags of `add_check_flags`, after `set_sizes`."""
    return check(
        wrapper,
        exported,
        args.check_sizes,
        args.check_batches or BATCH_SIZES,
        args.tolerance,
    )


def metadata_of(source: Source) -> dict[str, str]:
    """Metadata that a client needs to run the model, as text by name."""
    own_ids = source.rows().own
    names = [source.categories.get(category_id) for category_id in source.rows().by_row]
    by_own_id = {str(i): name for i, name in zip(own_ids, names, strict=True) if name is not None}
    return {
        "name": source.name,
        "image_mean": json.dumps(IMAGENET_MEAN),
        "image_std": json.dumps(IMAGENET_STD),
        "short_side": str(source.short_side),
        "max_size": str(source.max_size),
        "category_ids": json.dumps(own_ids),
        "categories": json.dumps(by_own_id),
        "architecture": json.dumps(source.architecture.flags()),
    }

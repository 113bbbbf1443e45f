"""What the exporters share: flags, the check of the written file, exit statuses."""

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

from torch import Tensor

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
from export.detector import Detector
from export.source import Source, add_model_flags, source_of
from export.weights import cannot_be_written, check_output_file
from util.cli.command_line import ArgumentParser, FlagGroup, positive_number, run_command
from util.errors import UserError
from util.files.checkpoint import atomic_write

# Any size will do that differs in height, width and from what is checked; small is quick.
_EXAMPLE_HW = (96, 128)


@dataclass(frozen=True)
class Format:
    """A file format that models are exported to.

    Attributes:
        program: the command, for messages.
        description: of the command.
        packages: what must be installed.
        write: exports the detector, called with example images and padding mask, into an open file,
            with metadata (text by name).
        load: makes a callable of the file at a path.
        smallest_side: in pixels, of the images that it takes.
    """

    program: str
    description: str
    packages: tuple[str, ...]
    write: Callable[[Detector, tuple[Tensor, Tensor], Mapping[str, str], IO[bytes]], None]
    load: Callable[[Path], Exported]
    smallest_side: int = 1


def run_export(export_format: Format, argv: Sequence[str] | None = None) -> int:
    """Export a model, check the file against PyTorch, and return the exit status.

    Returns:
        0: written and checked. 1: the file computes something else, and is not kept. 2: a mistake
        of the user. 130: interrupted. All but the first leave one line on stderr.
    """

    def command() -> None:
        args = _parser(export_format).parse_args(argv)
        require(export_format.packages, export_format.program)
        check_output_file(args.output)
        source = source_of(args)
        refuse_sizes(args, export_format.smallest_side, source.architecture.largest_side)
        try:
            _export(export_format, source, args)
        except OSError as err:
            raise cannot_be_written(args.output, err) from err

    return run_checked(export_format.program, command)


def run_checked(program: str, command: Callable[[], None]) -> int:
    """As `util.cli.command_line.run_command`; a check that fails gives one line and status 1."""
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
    """See that packages are installed.

    Raises:
        UserError: one is not.
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
    group.add_switch("--raw", "outputs pred_logits and pred_boxes in place of detections")
    add_check_flags(parser, TOLERANCE)
    return parser


def add_check_flags(parser: ArgumentParser, tolerance: float) -> None:
    """Add the flags of the comparison with PyTorch."""
    group = FlagGroup(parser, "check")
    sizes = [f"{height}x{width}" for height, width in SIZES_HW]
    group.add(
        "--check_sizes",
        f"heights and widths to compare at (default: {' '.join(sizes)})",
        nargs="+",
        type=_size_hw,
        default=None,
    )
    group.add(
        "--check_batches",
        f"batch sizes to compare at (default: {' '.join(map(str, BATCH_SIZES))})",
        nargs="+",
        type=positive_number,
        default=None,
    )
    group.add("--tolerance", "largest difference that passes", type=float, default=tolerance)


def _size_hw(text: str) -> SizeHW:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 800x1066")
    return int(match[1]), int(match[2])


def _export(export_format: Format, source: Source, args: argparse.Namespace) -> None:
    """Write the file beside, check that, and only then give it its name."""
    detector = Detector(source.model, args.raw).eval().requires_grad_(False)
    example = next(padded_batches([_EXAMPLE_HW], [2]))
    with atomic_write(args.output) as file:
        export_format.write(detector, example, metadata_of(source), file)
        file.flush()
        written = Path(file.name)
        size = written.stat().st_size / 2**20
        print(f"{source.name}: {size:.0f} MB; largest differences from PyTorch:", flush=True)
        differences = check_as_asked(detector, export_format.load(written), args)
        print(f"  in all: {differences}")
    print(f"written to {args.output}")


def refuse_sizes(args: argparse.Namespace, smallest_side: int, largest_side: float) -> None:
    """Find sizes of the flags that cannot be compared at, before the work.

    Args:
        args: with the flags of `add_check_flags`.
        smallest_side: in pixels, of images that the file takes.
        largest_side: in pixels, of images that the model takes.

    Raises:
        UserError: there is one.
    """
    for height, width in args.check_sizes or SIZES_HW:
        if min(height, width) < smallest_side or max(height, width) > largest_side:
            limit = f"to {largest_side:.0f} pixels" if largest_side < math.inf else "pixels on"
            raise UserError(
                f"--check_sizes {height}x{width}: this export takes sides from {smallest_side} "
                f"{limit}"
            )


def check_as_asked(detector: Detector, exported: Exported, args: argparse.Namespace) -> Differences:
    """`export.check.check` with the sizes of the flags."""
    return check(
        detector,
        exported,
        args.check_sizes or SIZES_HW,
        args.check_batches or BATCH_SIZES,
        args.tolerance,
    )


def metadata_of(source: Source) -> dict[str, str]:
    """What a client has to know, as text by name."""
    return {
        "name": source.name,
        "image_mean": json.dumps(IMAGENET_MEAN),
        "image_std": json.dumps(IMAGENET_STD),
        "short_side": str(source.short_side),
        "max_size": str(source.max_size),
        "categories": json.dumps({str(k): v for k, v in source.categories.items()}),
        "architecture": json.dumps(source.architecture.flags()),
    }

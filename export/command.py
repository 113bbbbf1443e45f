"""The command line of the exporters: flags, export, check of the written file, exit status."""

import argparse
import importlib.util
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.check import (
    BATCH_SIZES,
    SIZES_HW,
    TOLERANCE,
    CheckFailedError,
    Differences,
    Exported,
    MaskedBatch,
    check,
    compare,
    padded_batches,
)
from export.end_to_end import EndToEnd, compare_end_to_end
from export.source import Source, add_model_flags, source_of
from export.weights import cannot_be_written, check_output_file, staged_files
from export.wrapper import Example, ExportWrapper, MinimalWrapper, SizeHW
from util.cli.command_line import ArgumentParser, FlagGroup, fraction, positive_int, run_command
from util.errors import UserError

# Any small size with different height and width that is not among the checked sizes.
_EXAMPLE_HW = (96, 128)


@dataclass
class Job:
    """What is exported, and how the written file is compared with it.

    Attributes:
        source: the model, with its classes and image sizes.
        module: the module to export, in evaluation mode.
        metadata: text by name, stored in the file.
        batches: images and padding masks for the comparison.
        tolerance: maximum difference.
    """

    source: Source
    module: ExportWrapper | EndToEnd
    metadata: Mapping[str, str]
    batches: Iterable[MaskedBatch]
    tolerance: float

    @property
    def example(self) -> Example:
        """Inputs of the module, with padding."""
        wrapper = self.module.wrapper if isinstance(self.module, EndToEnd) else self.module
        return self.module.inputs_of(*next(padded_batches([wrapper.fixed_hw or _EXAMPLE_HW], [2])))

    def check(self, exported: Exported) -> Differences:
        """Compare, see `export.check.check`."""
        is_end_to_end = isinstance(self.module, EndToEnd)
        how = compare_end_to_end if is_end_to_end else compare
        return check(self.module, exported, self.batches, self.tolerance, how)


@dataclass(frozen=True)
class Format:
    """A file format for exported models.

    Attributes:
        program: name of the command, for messages.
        description: description of the command for ``--help``.
        packages: packages that must be installed.
        write: writes a module to a path, with the flags of the command.
        load: loads an exported file as a callable, from the path and the names of the inputs.
        smallest_side: minimum side of input images in pixels.
        has_sizes: the format has the flag ``--fixed_size``.
        add_flags: adds the flags of this format.
        check_flags: checks them, and adapts the comparison with PyTorch.
    """

    program: str
    description: str
    packages: tuple[str, ...]
    write: Callable[[Job, Path, argparse.Namespace], None]
    load: Callable[[Path, Sequence[str]], Exported]
    smallest_side: int = 1
    has_sizes: bool = True
    add_flags: Callable[[ArgumentParser], None] = lambda parser: None
    check_flags: Callable[[argparse.Namespace, Job], None] = lambda args, job: None


def run_export(export_format: Format, argv: Sequence[str] | None = None) -> int:
    """Export a model, check the file against PyTorch, and return the exit status.

    Returns:
        0: written and checked. 1: the check failed, and nothing is written. 2: user error.
        130: interrupted. Every status except 0 comes with one line on stderr.
    """

    def command() -> None:
        """Parse the flags, then export and check."""
        args = _parser(export_format).parse_args(argv)
        require(export_format.packages, export_format.program)
        check_output_file(args.output, args.checkpoint or args.weights)
        _check_end_to_end_flags(args)
        job = _build_job(export_format, args)
        export_format.check_flags(args, job)
        if args.tolerance is not None:
            job.tolerance = args.tolerance
        try:
            _export(export_format, job, args)
        except OSError as err:
            raise cannot_be_written(args.output, err) from err

    return run_checked(export_format.program, command)


def _build_job(export_format: Format, args: argparse.Namespace) -> Job:
    """Load the model that the flags select, and wrap it."""
    source = source_of(args)
    largest_side = source.architecture.largest_side
    sizes_hw = sizes_to_check(args, export_format.smallest_side, largest_side)
    raw = args.raw and not args.end_to_end
    kind = MinimalWrapper if source.is_minimal else ExportWrapper
    wrapper = kind(source.model, raw, largest_side, args.fixed_size)
    module: ExportWrapper | EndToEnd = wrapper
    if args.end_to_end:
        if source.is_minimal:
            raise UserError(f"--end_to_end: {source.name} takes no padding; omit the flag")
        num_queries = source.architecture.num_queries
        if (args.top_k or 0) > num_queries:
            raise UserError(f"--top_k {args.top_k}: the model has {num_queries} queries")
        module = EndToEnd(
            wrapper, args.top_k or num_queries, args.threshold or 0.0, source.normalization
        )
    return Job(
        source=source,
        module=module.eval().requires_grad_(False),
        metadata=metadata_of(source, args.fixed_size),
        batches=padded_batches(sizes_hw, args.check_batches or BATCH_SIZES),
        tolerance=TOLERANCE,
    )


def _check_end_to_end_flags(args: argparse.Namespace) -> None:
    """Raise a UserError if flags contradict each other."""
    if args.end_to_end and args.raw:
        raise UserError("--end_to_end cannot be combined with --raw: give one of them")
    for name in ("top_k", "threshold"):
        if getattr(args, name) is not None and not args.end_to_end:
            raise UserError(f"--{name} is only used with --end_to_end; omit it or add --end_to_end")


def run_checked(program: str, command: Callable[[], None]) -> int:
    """Like `util.cli.command_line.run_command`, with status 1 and one line for a failed check."""
    failed = False

    def guarded() -> None:
        """Run the command; print a failed check as one line."""
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
        usage=f"{export_format.program} (--checkpoint FILE | --hub NAME) --output FILE [flags]",
        description=export_format.description,
        fromfile_prefix_chars="@",
    )
    add_model_flags(parser)
    _add_export_flags(parser, export_format)
    export_format.add_flags(parser)
    add_check_flags(parser, None)
    return parser


def _add_export_flags(parser: ArgumentParser, export_format: Format) -> None:
    group = FlagGroup(parser, "export")
    group.add("--output", "file to write", required=True)
    raw = "export the outputs pred_logits and pred_boxes instead of scores, labels and boxes"
    group.add_switch("--raw", raw)
    if export_format.has_sizes:
        fixed = "export for one input size HEIGHTxWIDTH, for runtimes without dynamic shapes"
        group.add("--fixed_size", fixed, type=_size_hw)
    else:
        parser.set_defaults(fixed_size=None)
    group.add_switch(
        "--end_to_end",
        "export with pre- and post-processing: 8-bit images in, detections in pixels out",
    )
    group.add(
        "--top_k",
        "number of detections per image with --end_to_end (default: one per query)",
        type=positive_int,
    )
    group.add("--threshold", "minimum score with --end_to_end (default: 0)", type=fraction)


def add_check_flags(parser: ArgumentParser, tolerance: float | None) -> None:
    """Add the flags for the comparison with PyTorch."""
    group = FlagGroup(parser, "check")
    sizes = [f"{height}x{width}" for height, width in SIZES_HW]
    group.add(
        "--check_sizes",
        "input sizes HEIGHTxWIDTH at which the outputs are compared with PyTorch (default: "
        f"{' '.join(sizes)}, or smaller if the model limits the size)",
        nargs="+",
        type=_size_hw,
    )
    group.add(
        "--check_batches",
        "batch sizes at which the outputs are compared with PyTorch (default: "
        f"{' '.join(map(str, BATCH_SIZES))})",
        nargs="+",
        type=positive_int,
    )
    tolerance_help = "maximum absolute difference of scores and of box coordinates in [0, 1]"
    if tolerance is None:
        tolerance_help += f" (default: {TOLERANCE:g})"
    group.add("--tolerance", tolerance_help, type=float, default=tolerance)


def _size_hw(text: str) -> SizeHW:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 800x1066")
    return int(match[1]), int(match[2])


def _export(export_format: Format, job: Job, args: argparse.Namespace) -> None:
    """Write to a temporary folder, check the file, and move it to --output."""
    output = Path(args.output)
    with staged_files(output.absolute().parent) as folder:
        written = folder / output.name
        export_format.write(job, written, args)
        size = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
        print(f"{job.source.name}: {size:.0f} MiB; largest differences from PyTorch:", flush=True)
        exported = export_format.load(written, job.module.signature().inputs)
        print(f"  overall: {job.check(exported)}")
    print(f"written to {args.output}")


def sizes_to_check(
    args: argparse.Namespace, smallest_side: int, largest_side: float
) -> list[SizeHW]:
    """Image sizes for the comparison: those given, or the defaults limited to the model's range.

    Args:
        args: has the flags of `add_check_flags`.
        smallest_side: minimum side of images in pixels, for the file format.
        largest_side: maximum side of images in pixels, for the model.

    Raises:
        UserError: a given size is out of range.
    """
    fixed_hw: SizeHW | None = getattr(args, "fixed_size", None)
    if fixed_hw is not None and args.check_sizes not in (None, [fixed_hw]):
        raise UserError("--check_sizes is not used with --fixed_size; omit it")
    given = [fixed_hw] if fixed_hw is not None else args.check_sizes
    if given is None:
        fitting = ((min(h, largest_side), min(w, largest_side)) for h, w in SIZES_HW)
        return [(int(h), int(w)) for h, w in dict.fromkeys(fitting)]
    for height, width in given:
        if min(height, width) < smallest_side or max(height, width) > largest_side:
            flag = "--check_sizes" if fixed_hw is None else "--fixed_size"
            most = f" and at most {largest_side:.0f}" if largest_side < math.inf else ""
            raise UserError(
                f"{flag} {height}x{width}: each side must have at least {smallest_side}"
                f"{most} pixels"
            )
    return list(given)


def metadata_of(source: Source, fixed_hw: SizeHW | None = None) -> dict[str, str]:
    """Metadata that a client needs to run the model, as text by name."""
    own_ids = source.rows().user_ids
    names = [source.categories.get(category_id) for category_id in source.rows().by_row]
    by_own_id = {str(i): name for i, name in zip(own_ids, names, strict=True) if name is not None}
    things = [source.is_thing.get(category_id) for category_id in source.rows().by_row]
    metadata = {
        "name": source.name,
        **{name: json.dumps(values) for name, values in source.normalization.flags().items()},
        "short_side": str(source.short_side),
        "max_size": str(source.max_size),
        "threshold": json.dumps(source.threshold),
        "category_ids": json.dumps(own_ids),
        "categories": json.dumps(by_own_id),
        "architecture": json.dumps(source.architecture.flags()),
    }
    if source.is_minimal:
        del metadata["architecture"]  # it has no flags
    if fixed_hw is not None:
        metadata["fixed_size"] = json.dumps(fixed_hw)
    if source.is_panoptic:
        metadata["is_thing"] = json.dumps(
            {str(i): thing for i, thing in zip(own_ids, things, strict=True) if thing is not None}
        )
        metadata["segment_threshold"] = json.dumps(source.segment_threshold)
    return metadata

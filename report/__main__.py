"""``python -m report OUT``: write the report of a run."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import KINDS
from datasets.formats.flags import add_format_flags
from training.flags.arguments import get_args_parser
from training.flags.data_checks import COCO_PATHS
from util.cli.command_line import ArgumentParser, FlagGroup, run_command

_PROGRAM = "python -m report"


def build_parser() -> ArgumentParser:
    """Build the command-line parser."""
    parser = ArgumentParser(
        _PROGRAM,
        usage=f"{_PROGRAM} OUT [flags]",
        description="Write report.html and figures/ for a run of main.py.",
    )
    parser.add_argument("folder", metavar="OUT", type=Path, help="--output_dir of the run")
    group = FlagGroup(parser, "data, if it has moved (default: the flags of the run)")
    add_format_flags(group)
    helps = {action.dest: str(action.help) for action in get_args_parser(device="")._actions}
    group.add("--dataset_file", helps["dataset_file"], default=None, choices=KINDS)
    for name in COCO_PATHS:
        group.add(f"--{name}", helps[name])
    for action in parser._actions:  # main.py's defaults do not apply
        action.help = str(action.help).split(" (default: ")[0]
    return parser


def report(folder: Path, data_flags: dict[str, Any]) -> None:
    """Write the report of a run, and print its path and the missing inputs.

    Raises:
        UserError: if the folder does not exist or contains no results.
    """
    from report.write import report_run
    from util.terminal.transient_lines import transient_lines

    with transient_lines():
        path, missing = report_run(folder, data_flags)
    for sentence in missing:
        print(f"Missing from the report: {sentence}")
    print(f"{path}: figures also as PNG and SVG in {path.with_name('figures')}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    args: argparse.Namespace = build_parser().parse_args(argv)
    given = {k: v for k, v in vars(args).items() if k != "folder" and v not in (None, "", False)}
    return run_command(_PROGRAM, lambda: report(args.folder, given))


if __name__ == "__main__":
    sys.exit(main())

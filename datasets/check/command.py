"""Check a dataset before training: ``python -m datasets.check --help``.

Exit status: 0 = no errors, 1 = errors found, 2 = invalid command line or unreadable annotation
file, 130 = interrupted.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from datasets.annotations.checks import check_image_folder
from datasets.annotations.layouts import coco_paths
from datasets.check.coco import CocoSplit, Settings, check_coco_split
from datasets.check.facts import Split
from datasets.check.flags import PROGRAM, build_parser
from datasets.check.pictures import save_pictures
from datasets.check.report import Report, as_json, as_text
from datasets.check.splits import compare_splits
from datasets.formats.reading import ReadOptions, build_read_options, read_split
from datasets.formats.recognize import DataSource, build_source, split_names
from util.cli.command_line import run_command
from util.errors import UserError
from util.files.checkpoint import atomic_write

_TO_STDOUT = "-"


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status (see above)."""
    reports: list[Report] = []

    def command() -> None:
        """Check, and keep the report for the exit status."""
        reports.append(_check(build_parser().parse_args(argv)))

    status = run_command(PROGRAM, command)
    return status or int(reports[0].has_errors())


def _check(args: argparse.Namespace) -> Report:
    """Check the dataset, and write the report and the sample images."""
    _check_flags(args)
    splits = _splits(args)
    settings = Settings(
        num_queries=args.num_queries,
        num_classes=args.num_classes,
        masks=args.masks,
        open_images=not args.skip_images,
        num_workers=args.num_workers,
        num_pictures=args.num_pictures if args.pictures else 0,
    )
    checked = [check_coco_split(split, settings) for split in splits]
    report = _report(checked, args.num_queries)
    _write(report, checked, args)
    return report


def _check_flags(args: argparse.Namespace) -> None:
    """Check the flags before reading any data."""
    for name, minimum in (("num_queries", 1), ("num_classes", 1), ("num_workers", 0)):
        if (value := getattr(args, name)) is not None and value < minimum:
            raise UserError(f"--{name} {value} must be at least {minimum}")
    if args.num_pictures < 1:
        raise UserError(f"--num_pictures {args.num_pictures} must be at least 1")
    if args.pictures:
        suffix = Path(args.pictures).suffix.lower()
        if Image.registered_extensions().get(suffix) not in Image.SAVE:
            raise UserError(f"--pictures {args.pictures}: {suffix!r} is not an image format")
    for flag, target in (("--json", args.json), ("--pictures", args.pictures)):
        if target and target != _TO_STDOUT and not Path(target).absolute().parent.is_dir():
            raise UserError(f"{flag} {target}: its folder does not exist; create it first")


def _splits(args: argparse.Namespace) -> list[Split]:
    """Return the splits that the flags describe, and check that their files exist."""
    if (source := build_source(args)) is not None:
        options = build_read_options(args)
        return [_read(name, source, options) for name in split_names(source)]
    named = [
        name
        for name in ("train", "val")
        if args.coco_path or getattr(args, f"{name}_images") or getattr(args, f"{name}_ann")
    ]
    if not named:
        raise UserError(
            "nothing to check: give --data, or --coco_path, or --train_images and --train_ann, "
            "or --val_images and --val_ann"
        )
    splits = []
    for name in named:
        images, annotations = getattr(args, f"{name}_images"), getattr(args, f"{name}_ann")
        splits.append(Split(name, *coco_paths(name, args.coco_path, images, annotations)))
    for split in splits:
        check_image_folder(split.img_folder, split.name)
        if not split.ann_file.is_file():
            raise UserError(
                f"annotation file {split.ann_file} does not exist; "
                f"check --coco_path, or give the file with --{split.name}_ann"
            )
    return splits


def _read(name: str, source: DataSource, options: ReadOptions) -> Split:
    tables = read_split(source, name, options)
    return Split(name, tables.img_folder, tables.source, tables)


def _report(checked: Sequence[CocoSplit], num_queries: int) -> Report:
    facts = [split.facts for split in checked]
    between = compare_splits(*facts) if len(facts) == 2 else []
    return Report(facts, between, num_queries)


def _write(report: Report, checked: Sequence[CocoSplit], args: argparse.Namespace) -> None:
    if args.json == _TO_STDOUT:
        print(json.dumps(as_json(report), indent=1, allow_nan=False))
    else:
        print(as_text(report))
        if args.json:
            with atomic_write(args.json, "w") as file:
                json.dump(as_json(report), file, indent=1, allow_nan=False)
    if args.pictures:
        drawn = save_pictures(
            [sample for split in checked for sample in split.samples], Path(args.pictures)
        )
        if drawn == 0:
            print(f"no images to draw: {args.pictures} was not written", file=sys.stderr)

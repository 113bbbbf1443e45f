"""Check a dataset before training: ``python -m datasets.check --help``.

Exit status: 0 = no errors, 1 = errors found, 2 = invalid command line or unreadable annotation
file, 130 = interrupted.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from datasets.annotations.checks import check_image_folder
from datasets.annotations.class_tables import name_conflicts, only_in
from datasets.annotations.layouts import coco_paths
from datasets.check.coco import CocoSplit, Settings, check_coco_split
from datasets.check.findings import Example, Finding, Findings
from datasets.check.flags import PROGRAM, build_parser
from datasets.check.pictures import save_pictures
from datasets.check.report import Report, as_json, as_text
from datasets.check.split_statistics import Split, SplitStatistics
from datasets.formats.reading import build_read_options, read_split
from datasets.formats.recognize import build_source, split_names
from util.cli.command_line import run_command
from util.errors import UserError
from util.files.checkpoint_file import atomic_write

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
    stats = [split.stats for split in checked]
    between = compare_splits(*stats) if len(stats) == 2 else []
    report = Report(stats, between, args.num_queries)
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
        by_name = {name: read_split(source, name, options) for name in split_names(source)}
        return [
            Split(name, tables.img_folder, tables.source, tables)
            for name, tables in by_name.items()
        ]
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


def compare_splits(train: SplitStatistics, val: SplitStatistics) -> list[Finding]:
    """Return the problems found by comparing both splits."""
    findings = Findings("train, val")
    _compare_class_tables(findings, train, val)
    _compare_class_counts(findings, train, val)
    _find_shared_images(findings, train, val)
    return findings.all()


def _compare_class_tables(findings: Findings, train: SplitStatistics, val: SplitStatistics) -> None:
    names, val_names = train.class_names(), val.class_names()
    text_ids = {**train.text_ids, **val.text_ids}
    lone = only_in("train", names, val_names) + only_in("val", val_names, names)
    for kind, differences in (
        ("class_conflict", name_conflicts(names, val_names, ("train", "val"), text_ids)),
        ("class_table_differs", lone),
    ):
        for number, detail in differences:
            findings.add(kind, Example(category_id=number, detail=detail))


def _compare_class_counts(findings: Findings, train: SplitStatistics, val: SplitStatistics) -> None:
    for kind, here, there in (
        ("class_without_training", val, train),
        ("class_without_validation", train, val),
    ):
        for number, entry in here.classes.items():
            elsewhere = there.classes.get(number)
            if entry.objects and not (elsewhere and elsewhere.objects):
                detail = f"{entry.name!r}, {entry.objects} in {here.split.name}"
                findings.add(kind, Example(category_id=number, detail=detail))


def _find_shared_images(findings: Findings, train: SplitStatistics, val: SplitStatistics) -> None:
    """Find images with equal pixels or, if images were not opened, with equal path or name."""
    if train.survey is not None and val.survey is not None:
        for digest, image in train.survey.by_digest.items():
            if twin := val.survey.by_digest.get(digest):
                detail = f"identical to validation image id {twin.image_id} ({twin.file_name})"
                findings.add("duplicate_across_splits", image.example(detail))
        return
    val_paths = {os.path.realpath(image.path): image for image in val.images.values()}
    val_names = {image.path.name: image for image in val.images.values()}
    for image in train.images.values():
        if twin := val_paths.get(os.path.realpath(image.path)):
            detail = f"same file as validation image id {twin.image_id}"
            findings.add("duplicate_across_splits", image.example(detail))
        elif twin := val_names.get(image.path.name):
            detail = f"same file name as validation image id {twin.image_id}"
            findings.add("same_name_across_splits", image.example(detail))

"""The flags of ``python -m datasets.check``."""

from datasets.formats.flags import add_format_flags
from util.cli.command_line import ArgumentParser, FlagGroup

PROGRAM = "python -m datasets.check"


def build_parser() -> ArgumentParser:
    """Build the parser; it has the data flags of main.py."""
    parser = ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [--data DIR] [flags]",
        description="Check a dataset and print a report. Exit status: 0 = no errors, "
        "1 = errors found, 2 = invalid command line or unreadable annotation file.",
        fromfile_prefix_chars="@",
    )
    data = FlagGroup(parser, "data")
    add_format_flags(data)
    data.add("--seed", "as for main.py; used if --split_seed is not given", default=42, type=int)
    data.add("--coco_path", "COCO directory: train2017/, val2017/, annotations/")
    for split, images in (("train", "training"), ("val", "validation")):
        data.add(f"--{split}_images", f"folder of the {images} images")
        data.add(f"--{split}_ann", f"COCO annotation file of the {images} images")
    check = FlagGroup(parser, "check")
    check.add("--num_queries", "number of object queries of the model", default=100, type=int)
    classes = "number of classes; category ids must be below this number"
    check.add("--num_classes", classes, type=int)
    check.add_switch("--masks", "also check segmentations")
    check.add_switch("--skip_images", "check annotations only, without opening images")
    check.add("--num_workers", "number of threads that decode images", default=2, type=int)
    report = FlagGroup(parser, "report")
    target = 'write a JSON report to this file ("-": to stdout, instead of the text report)'
    report.add("--json", target)
    report.add("--pictures", "save sample images with their boxes to this file (.png, .jpg, …)")
    report.add("--num_pictures", "number of images drawn per split", default=8, type=int)
    return parser

"""Convert data in any supported format to COCO JSON: ``python -m datasets.convert --help``."""

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("python -m datasets.convert")

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.formats.flags import add_reading_flags
from util.cli.command_line import ArgumentParser, FlagGroup, run_command
from util.errors import UserError

_PROGRAM = "python -m datasets.convert"


def build_parser() -> ArgumentParser:
    """Build the parser, with the reading flags of main.py."""
    parser = ArgumentParser(
        prog=_PROGRAM,
        description="Convert the annotations of a dataset (Pascal VOC, YOLO, COCO in any layout) "
        "to COCO JSON: train.json and val.json. Images are not copied.",
    )
    parser.add_argument("data", help="folder of the dataset, its COCO JSON or its data.yaml")
    group = FlagGroup(parser, "conversion")
    group.add("--output_dir", "folder for train.json and val.json", required=True)
    add_reading_flags(group)
    group.add("--seed", "as for main.py; used if --split_seed is not given", default=42, type=int)
    return parser


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    return run_command(_PROGRAM, lambda: _convert(build_parser().parse_args(argv)))


def _convert(args: argparse.Namespace) -> None:
    """Convert all splits, and print the command that trains on the result."""
    # Imported here, because these modules take seconds to load.
    from datasets.formats.coco import CocoData
    from datasets.formats.reading import build_read_options, read_split
    from datasets.formats.recognize import recognize, split_names
    from datasets.formats.tables import as_coco_file
    from util.files.checkpoint_file import atomic_write

    source, options = recognize(args.data), build_read_options(args)
    folder = Path(args.output_dir)
    if folder.is_file():
        raise UserError(f"--output_dir {folder} is a file; give a folder")
    _check_not_replaced(source.splits if isinstance(source, CocoData) else {}, folder)
    flags = []
    for name in split_names(source):
        tables = read_split(source, name, options)
        print(tables.summary(name))
        for sentence in (*tables.remarks, *tables.notes, *tables.errors):
            print(f"  {sentence}")
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}.json"
        with atomic_write(file, "w") as opened:
            json.dump(as_coco_file(tables.data), opened, ensure_ascii=False)
        flags += [f"--{name}_images", str(tables.img_folder), f"--{name}_ann", str(file)]
    print(f"Wrote {folder}. Train with:\npython main.py {shlex.join(flags)}")


def _check_not_replaced(splits: Mapping[str, tuple[Path, Path]], folder: Path) -> None:
    """Check that no annotation file that is read is in the output folder under a name written.

    Args:
        splits: image folder and annotation file of each split.
        folder: output folder.
    """
    written = {(folder / f"{name}.json").resolve() for name in ("train", "val")}
    for _, file in splits.values():
        if file.resolve() in written:
            raise UserError(
                f"--output_dir {folder}: {file} would be replaced, but it is the data to convert; "
                "choose a different folder"
            )


if __name__ == "__main__":
    sys.exit(run())

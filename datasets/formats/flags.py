"""Flags of data in any format, for main.py and the commands of ``datasets``."""

from util.cli.command_line import FlagGroup


def add_format_flags(group: FlagGroup) -> None:
    """Add the flags that name data in any format, and say how to read it."""
    add = group.add
    add("--data", "your data: folder, COCO JSON or data.yaml; the format is recognised")
    add("--voc_path", "Pascal VOC folder: VOCdevkit, VOC2007, or XML files with images")
    add("--yolo_path", "YOLO data.yaml, or folder: images/, labels/, classes.txt")
    add_reading_flags(group)


def add_reading_flags(group: FlagGroup) -> None:
    """Add the flags that say how to read data, except ``--seed``."""
    fraction = "share of images for validation if the data is not split (default: 0.1)"
    group.add("--val_fraction", fraction, type=float)
    group.add("--split_seed", "seed that chooses these images (default: --seed)", type=int)
    group.add("--classes", "text file with class names, one per line; others are left out")
    group.add_switch("--keep_difficult", "Pascal VOC: use difficult objects like all others")

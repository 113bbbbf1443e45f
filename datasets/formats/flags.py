"""Flags that select data in any format, for main.py and the commands of ``datasets``."""

from util.cli.command_line import FlagGroup


def add_format_flags(group: FlagGroup) -> None:
    """Add the flags that select data in any format, and those for how it is read."""
    add = group.add
    add("--data", "your data: folder, COCO JSON or data.yaml; the format is detected")
    add("--voc_path", "Pascal VOC folder: VOCdevkit, VOC2007, or XML files with images")
    add("--yolo_path", "YOLO data.yaml, or folder: images/, labels/, classes.txt")
    add_reading_flags(group)


def add_reading_flags(group: FlagGroup) -> None:
    """Add the flags for how data is read, except ``--seed``."""
    fraction = "fraction of images for validation if the data is not split (default: 0.1)"
    group.add("--val_fraction", fraction, type=float)
    seed = "seed of the split made by --val_fraction (default: --seed)"
    group.add("--split_seed", seed, type=int)
    group.add("--classes", "text file with class names, one per line; other classes are ignored")
    difficult = "Pascal VOC: also train and evaluate on objects marked difficult"
    group.add_switch("--keep_difficult", difficult)

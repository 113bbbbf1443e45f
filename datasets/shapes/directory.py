"""The synthetic shapes dataset (``--dataset_file shapes``): generated once, then read like COCO.

It has the layout of COCO 2017: ``train2017/`` and ``val2017/`` (PNG images),
``annotations/instances_*.json`` with boxes and RLE masks, and ``panoptic_*/`` with
``annotations/panoptic_*.json``. Shapes are things, in random colors; background textures are stuff,
each with a dominant color. A thing has the same id, box and area (of its visible pixels) in both
annotation files. Instance annotations have an additional field ``visible_share``, the fraction of
the object's pixels that no other object covers.
"""

import copy
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from datasets import coco
from datasets.shapes.drawing import MIN_IMAGE_SIZE
from datasets.shapes.split import MAX_IMAGES, SPLITS, write_json, write_split
from util.errors import UserError
from util.options import option

FORMAT_VERSION = 2  # increase if the same settings give different files
DEFAULT_NUM_TRAIN = 4000
DEFAULT_NUM_VAL = 200
DEFAULT_IMAGE_SIZE = 128
DEFAULT_SEED = 0
DEFAULT_ROOT = Path(__file__).resolve().parents[2] / "data" / "shapes"
TRAIN_SCALES = (0.75, 0.875, 1.0)  # relative to the image size; evaluation uses the largest

SETTINGS_FILE = "shapes.json"


def build(image_set: str, args: Any) -> coco.CocoDetection:
    """Build a split as `CocoDetection`; generate the dataset first if it does not exist.

    Args:
        image_set: "train" or "val".
        args: namespace of main.py, see `build_coco_args`.

    Raises:
        UserError: if the directory contains other data or cannot be written.
    """
    return coco.build(image_set, build_coco_args(args))


def is_shapes_dataset(root: str | Path) -> bool:
    """Whether a directory was written by `write_shapes`."""
    return _read_settings(Path(root)) is not None


def build_scales(args: Any) -> list[int]:
    """Short sides of training images in pixels: ``--scales``, else `TRAIN_SCALES`.

    Raises:
        UserError: see `build_coco_args`.
    """
    return build_coco_args(args).scales


def build_coco_args(args: Any) -> Any:
    """Generate the dataset if it does not exist, and return flags that read it as COCO data.

    The directory is ``args.coco_path``, by default ``data/shapes`` next to main.py. An existing
    dataset at ``args.coco_path`` may have been generated with other settings than the defaults.

    Args:
        args: namespace of main.py; not modified.

    Returns:
        a copy of the namespace with ``coco_path``, ``coco_panoptic_path`` and ``scales`` (default:
        `TRAIN_SCALES` times the image size).

    Raises:
        UserError: if the directory contains other data or cannot be written.
    """
    named = getattr(args, "coco_path", None)
    root = Path(named or DEFAULT_ROOT)
    if not (named and _read_settings(root)):
        write_shapes(root)
    image_size = _checked_settings(root)["image_size"]
    coco_args = copy.copy(args)
    coco_args.coco_path = coco_args.coco_panoptic_path = str(root)
    if option(args, "scales") is None:
        coco_args.scales = [round(scale * image_size) for scale in TRAIN_SCALES]
    return coco_args


def write_shapes(
    root: str | Path,
    *,
    num_train: int = DEFAULT_NUM_TRAIN,
    num_val: int = DEFAULT_NUM_VAL,
    image_size: int = DEFAULT_IMAGE_SIZE,
    seed: int = DEFAULT_SEED,
) -> None:
    """Generate the dataset, unless the directory already contains it with the same settings.

    The files are written to a temporary directory next to ``root``, which is renamed when complete.
    Several processes may write at the same time: the first to finish wins. An image depends only on
    seed, split and index.

    Args:
        root: directory to write; must be empty or missing.
        num_train: number of training images, 1 to `MAX_IMAGES`.
        num_val: number of validation images, 1 to `MAX_IMAGES`.
        image_size: side of the square images in pixels, at least 64.
        seed: non-negative seed.

    Raises:
        UserError: if ``root`` contains other data or cannot be written.
        ValueError: if a setting is out of range.
    """
    root = Path(root).resolve()
    settings = {
        "format_version": FORMAT_VERSION,
        "num_train": num_train,
        "num_val": num_val,
        "image_size": image_size,
        "seed": seed,
    }
    _check_ranges(settings)
    try:
        if not _has_content(root):
            counts = f"{num_train} + {num_val} images"
            print(f"Writing the shapes dataset ({counts}) to {root}", flush=True)
            _write_atomically(root, settings)
    except OSError as error:
        raise UserError(
            f"cannot write the shapes dataset to {root} ({error.strerror or error}): "
            "choose a writable directory with --coco_path"
        ) from error
    _checked_settings(root, settings)


def _check_ranges(settings: dict[str, int]) -> None:
    for name, low, high in (
        ("num_train", 1, MAX_IMAGES),
        ("num_val", 1, MAX_IMAGES),
        ("image_size", MIN_IMAGE_SIZE, None),
        ("seed", 0, None),
    ):
        value = settings[name]
        if value < low or (high is not None and value > high):
            limit = f"at least {low}" if high is None else f"{low} to {high}"
            raise ValueError(f"{name} must be {limit}, got {value}")


# ---- the directory and its settings


def _has_content(root: Path) -> bool:
    return root.exists() and (not root.is_dir() or any(root.iterdir()))


def _read_settings(root: Path) -> dict[str, int] | None:
    """Read the settings of a complete dataset; None if ``root`` is not a shapes dataset."""
    try:
        settings = json.loads((root / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return settings if isinstance(settings, dict) else None


def _checked_settings(root: Path, expected: dict[str, int] | None = None) -> dict[str, int]:
    """Return the settings of a complete dataset, and check version and expected settings.

    Messages never suggest deleting the directory: it may contain the user's data.
    """
    found = _read_settings(root)
    if found is None:
        raise UserError(
            f"{root} is not a shapes dataset: to train on it, add --dataset_file coco; to generate "
            "shapes, choose a new folder with --coco_path"
        )
    for name, value in (expected or {"format_version": FORMAT_VERSION}).items():
        if found.get(name) != value:
            raise UserError(
                f"{root} contains a shapes dataset with {name} {found.get(name)}, not {value}: "
                f"to generate it again, choose a new folder with --coco_path, or rename {root}"
            )
    return found


def _write_atomically(root: Path, settings: dict[str, int]) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = root.with_name(f".{root.name}.{uuid.uuid4().hex}")
    try:
        _write_directory(unfinished, settings)
        os.rename(unfinished, root)
    except OSError:
        if _read_settings(root) is None:  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_directory(root: Path, settings: dict[str, int]) -> None:
    (root / "annotations").mkdir(parents=True)
    for split in SPLITS:
        num_images, image_size = settings[f"num_{split}"], settings["image_size"]
        write_split(root, split, num_images, image_size, settings["seed"])
    write_json(root / SETTINGS_FILE, settings)

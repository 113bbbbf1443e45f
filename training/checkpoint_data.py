"""Data of the checkpoint that a run starts from, compared with the data of the run."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets.formats.held_out import ImageSplit
from training.checkpoint import flags_in
from training.flags.data_checks import OWN_DATA_PATHS
from training.flags.saved import split_flags_of
from training.resume import LoadedCheckpoint, Start
from util.errors import UserError
from util.text import counted


def build_earlier_split(args: argparse.Namespace, start: Start) -> ImageSplit:
    """Training and validation images of the checkpoint that the run starts from.

    A new run from the weights of a checkpoint keeps them if it has the same data and no
    ``--split_seed``: images that the weights were trained on must not become validation images.
    """
    if start.resume is not None:
        return ImageSplit.read(start.resume.content.get("split"))
    checkpoint = start.initial
    if checkpoint is None or args.split_seed is not None:
        return ImageSplit()
    saved = flags_in(checkpoint.content, checkpoint.path)
    paths = [(getattr(args, name), saved.get(name)) for name in OWN_DATA_PATHS]
    is_same = any(now and before and _is_same_path(now, before) for now, before in paths)
    is_unknown = not any(before for _, before in paths)  # `export.weights` stores no paths
    return ImageSplit.read(checkpoint.content.get("split") if is_same or is_unknown else None)


def _is_same_path(now: str, before: Any) -> bool:
    return isinstance(before, str) and Path(now).resolve() == Path(before).resolve()


def check_val_fraction(
    fraction: float | None, val_set: Any, start: Start, earlier: ImageSplit
) -> None:
    """Refuse ``--val_fraction`` in a new run if the checkpoint's split already has all images.

    Files of `export.weights` do not store their fraction; for them a warning is printed.

    Args:
        fraction: value of ``--val_fraction``.
        val_set: validation data; its attribute ``split``, if any, is the split of the run.
        start: checkpoints; for ``--resume``, `training.flags.saved.resolve_flags` checks the flag.
        earlier: the split that the run keeps, see `build_earlier_split`.

    Raises:
        UserError: if the flag has another value than in the run of the weights.
    """
    checkpoint = start.initial
    if checkpoint is None or fraction is None or fraction >= 1:  # 1: evaluate all images
        return
    kept: ImageSplit | None = getattr(val_set, "split", None)
    if earlier == ImageSplit() or kept is None or kept != earlier.of_names(kept.train | kept.val):
        return
    saved = split_flags_of(flags_in(checkpoint.content, checkpoint.path)).get("val_fraction")
    known = "" if saved is None else f" (--val_fraction {saved})"
    problem = (
        f"--val_fraction {fraction:g}: the {len(earlier.val)} validation images of "
        f"{checkpoint.path} are kept{known}, and the data has no new images; "
        "omit the flag, or choose new validation images with --split_seed N"
    )
    if saved is None:
        print(f"Warning: {problem}")
    elif fraction != saved:
        raise UserError(problem)


def warn_of_trained_validation_images(val_set: Any, start: Start, earlier: ImageSplit) -> None:
    """Print a warning if held-out images are, or may be, training images of the checkpoint.

    Args:
        val_set: validation data; its attribute ``split``, if any, is the split of the run.
        start: checkpoints.
        earlier: the split that the run keeps, see `build_earlier_split`.
    """
    split: ImageSplit | None = getattr(val_set, "split", None)
    if split is None:
        return
    if start.initial is not None:  # a resumed run keeps the split
        _warn_of_training_names(split, start.initial)
    if (checkpoint := start.resume or start.initial) is not None:
        _warn_of_missing_images(split, len(val_set.ids), checkpoint, earlier)


def _warn_of_training_names(split: ImageSplit, checkpoint: LoadedCheckpoint) -> None:
    """Print a warning if held-out images have names of training images of the checkpoint."""
    saved = ImageSplit.read(checkpoint.content.get("split")).of_names(split.val)
    if shared := split.val & saved.train:
        print(
            f"Warning: {len(shared)} of {len(split.val)} validation images have names of "
            f"training images of {checkpoint.path}, such as {min(shared)}; if they are the "
            "same images, validation AP will be too high"
        )


def _warn_of_missing_images(
    split: ImageSplit, num_images: int, checkpoint: LoadedCheckpoint, earlier: ImageSplit
) -> None:
    """Print a warning if the data has none of the validation images of the checkpoint.

    Args:
        split: the split of the run, which keeps the names of ``earlier``.
        num_images: number of validation images in the data.
    """
    knows_data = bool(split_flags_of(flags_in(checkpoint.content, checkpoint.path)))
    is_kept = bool(earlier.val) and earlier.val <= split.val
    if knows_data and is_kept and len(split.val - earlier.val) == num_images:
        print(
            f"Warning: none of the {len(earlier.val)} validation images of {checkpoint.path}, such "
            f"as {min(earlier.val)}, is in the data; if its images were renamed or moved, the new "
            "validation images may be training images, and validation AP will be too high"
        )


def classes_to_read(
    classes: str | None, saved: Mapping[str, Any], names: Mapping[int, str], source: str
) -> str | list[str] | None:
    """Use the checkpoint's class names if the file of ``--classes`` no longer exists.

    Args:
        classes: value of ``--classes``.
        saved: flags of the checkpoint; its names are used only if they have the same ``--classes``.
        names: class names of the checkpoint by category id; ids have the order of the list.

    Returns:
        ``classes``, or the names.
    """
    is_saved = classes == saved.get("classes")
    if classes is None or not names or not is_saved or Path(classes).exists():
        return classes
    print(f"--classes {classes} does not exist: using the classes in {source}")
    return [names[i] for i in sorted(names)]


def report_changed_data(saved: Any, now: Mapping[str, Any]) -> None:
    """Print which data has changed.

    Args:
        saved: ``data`` of the checkpoint, not validated; None in files of earlier versions.
        now: the same of this run, see `training.data.Data.summaries`.
    """
    for split, after in now.items():
        before = saved.get(split) if isinstance(saved, Mapping) else None
        if after is None or not isinstance(before, Mapping) or before.get("hash") == after["hash"]:
            continue
        effect = "; best.pth and --patience compare scores of both" if split == "validation" else ""
        print(
            f"Warning: the {split} data has changed since the checkpoint was written: "
            f"{_difference(before, after)}{effect}"
        )


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = ("images", "objects")
    if all(before.get(name) == now[name] for name in names):
        return "other image names, boxes or classes"
    return ", ".join(f"{counted(now[name], name)} instead of {before.get(name)}" for name in names)

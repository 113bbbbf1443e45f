"""Flags of a run that starts from a checkpoint.

Order of precedence: the command line, the flags saved in the checkpoint, the defaults.
"""

import argparse
import copy
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets.formats.reading import DEFAULT_VAL_FRACTION
from datasets.shapes.directory import is_shapes_dataset
from models.weights import model_state, num_classes_in_head
from training.checkpoint import (
    can_resume,
    cls_loss_in,
    flags_in,
    is_of_original,
    report_better_average,
)
from training.flags.data_checks import COCO_PATHS, OWN_DATA_PATHS
from training.flags.inferred import architecture_of, unsaved_flags
from training.flags.precision import with_flag_as_given
from training.resume import LoadedCheckpoint, Start
from util.cli.command_line import accepts_value
from util.errors import UserError
from util.options import NEW_FLAG_DEFAULTS

Flags = dict[str, Any]
Actions = Mapping[str, argparse.Action]  # argparse actions of main.py by flag name

# Flags that must match the weights.
_DETECTOR = (
    *("backbone", "dilation", "position_embedding", "enc_layers", "dec_layers"),
    *("dim_feedforward", "hidden_dim", "nheads", "num_queries", "pre_norm"),
    *("query_design", "cls_loss", "overlap_penalty", "image_mean", "image_std"),
)
_NEEDED_BY_WEIGHTS = (*_DETECTOR, "masks")
# Values in files whose flags were saved before these flags existed.
_DETECTOR_DEFAULTS = {f: NEW_FLAG_DEFAULTS[f] for f in _DETECTOR if f in NEW_FLAG_DEFAULTS}
_IMAGE_SIZES = ("scales", "max_size")
_SCHEDULE = (
    *("lr", "lr_backbone", "weight_decay", "lr_scheduler", "lr_drop", "lr_min", "lr_min_ratio"),
    *("optimizer", "momentum", "warmup_steps", "lr_scale_batch"),
    *("freeze_backbone_epochs", "freeze_batch_size"),
)
_DATA_PATHS = (*COCO_PATHS, *OWN_DATA_PATHS)
# Flags that apply only to data outside COCO's directory layout.
_SPLIT = ("val_fraction", "split_seed")
_OWN_FORMAT = (*_SPLIT, "keep_difficult")
# Never restored from a checkpoint: input and output of this run, device and processes. The number
# of classes is read from the weights.
_NEVER_RESTORED = frozenset(
    {
        *("resume", "auto_resume", "finetune", "start_epoch", "eval", "num_classes"),
        *("output_dir", "overwrite", "skip_checks", "dump_detections", "log_style"),
        *("tensorboard", "amp_auto"),
        *("device", "num_workers", "dist_timeout"),
        *("compile", "tf32", "activation_checkpointing"),
        *("rank", "world_size", "gpu", "dist_url", "dist_backend", "distributed"),
    }
)


def resolve_flags(
    args: argparse.Namespace, start: Start, given: Collection[str] | None, actions: Actions
) -> argparse.Namespace:
    """Resolve the flags of a run: command line, else checkpoint, else default.

    Also sets ``resume`` to the path of the resumed checkpoint (given by ``--resume`` or found by
    ``--auto_resume``), and ``num_classes`` to the number of classes of the loaded classification
    head.

    Args:
        args: all flags; not changed.
        given: names of the flags given explicitly. None (called from a script): flags that differ
            from their defaults; then only architecture, image sizes and schedule are restored, as
            from a checkpoint of the original.
        actions: argparse actions of main.py.

    Returns:
        a copy with the final values.

    Raises:
        UserError: if a given flag contradicts the weights, or a saved flag has an invalid value.
    """
    args = copy.copy(args)
    is_script, given = given is None, _changed_flags(args, actions) if given is None else given
    if start.resume is not None:
        args.resume, args.finetune = start.resume.path, ""
        args = resolve_for_resume(args, start.resume.content, given, actions, is_script)
    for flag, checkpoint in (("finetune", start.finetune), ("frozen_weights", start.frozen)):
        if checkpoint is not None:
            args = resolve_for_new_run(args, flag, checkpoint.content, given, actions)
    for flag, checkpoint in (("resume", start.resume), ("frozen_weights", start.frozen)):
        if checkpoint is not None:
            args.num_classes = _num_classes(args.num_classes, flag, checkpoint)
    _report_better_averages(args, start)
    return args


def _changed_flags(args: argparse.Namespace, actions: Actions) -> set[str]:
    return {n for n, v in vars(args).items() if n in actions and v != actions[n].default}


def _num_classes(asked: int | None, flag: str, checkpoint: LoadedCheckpoint) -> int:
    """Number of classes in the classification head of a checkpoint."""
    path, content = checkpoint
    found = num_classes_in_head(model_state(content, path), f"--{flag} {path}")
    if asked not in (None, found):
        raise UserError(
            f"--num_classes {asked}: the head in {path} has {found} classes; "
            f"to load only its other weights, use --finetune {path} instead of --{flag}"
        )
    return found


def _report_better_averages(args: argparse.Namespace, start: Start) -> None:
    for checkpoint in (start.finetune, start.frozen):
        if checkpoint is not None:
            hint = "to use them, save them to a file with python -m export.weights --ema"
            report_better_average(checkpoint.content, checkpoint.path, hint)
    if start.resume is not None and args.eval and not args.ema_decay:
        hint = "--ema_decay 0.9998 evaluates both"
        report_better_average(start.resume.content, args.resume, hint)


def resolve_for_resume(
    args: argparse.Namespace,
    checkpoint: Mapping[str, Any],
    given: Collection[str],
    actions: Actions,
    is_script: bool = False,
) -> argparse.Namespace:
    """Resolve the flags of a run that resumes or evaluates a checkpoint.

    Every flag that was not given is restored from the checkpoint; from a checkpoint of the original
    only architecture, image sizes and schedule. Restored flags and remaining differences are
    printed.

    Args:
        args: all flags; not changed.
        checkpoint: content of the ``--resume`` file.
        given: names of the flags given explicitly.
        actions: argparse actions of main.py.
        is_script: restore only architecture, image sizes and schedule from any checkpoint.

    Raises:
        UserError: if a given flag contradicts the weights, or a saved flag has an invalid value.
    """
    source = f"--resume {args.resume}"
    saved = with_flag_as_given(flags_in(checkpoint, source))
    if not saved:
        saved = unsaved_flags(checkpoint, args.resume, given)
        _check_contradictions(args, saved, saved, given, source)
        return _with_saved_values(args, saved, saved, given, actions, source)
    saved = {"cls_loss": cls_loss_in(checkpoint, args.resume)} | saved
    _check_contradictions(args, _DETECTOR_DEFAULTS | saved, _NEEDED_BY_WEIGHTS, given, source)
    if can_resume(checkpoint) and not args.eval:
        # The checkpoint has the state of this optimizer.
        trained = {"optimizer": NEW_FLAG_DEFAULTS["optimizer"]} | saved
        _check_contradictions(args, trained, ["optimizer"], given, source)
        _check_contradictions(args, split_flags_of(saved), _SPLIT, given, source)
    saved = _with_split_seed(saved, args)
    names: Iterable[str] = [name for name in vars(args) if name in actions]
    if is_of_original(checkpoint) or is_script:
        names = (*_NEEDED_BY_WEIGHTS, *_IMAGE_SIZES, *_SCHEDULE)
    own_data = not set(_DATA_PATHS).isdisjoint(given)
    if own_data:
        names = [name for name in names if name not in _DATA_PATHS]
        if not set(COCO_PATHS).isdisjoint(given):
            names = [name for name in names if name not in _OWN_FORMAT]
    names = [name for name in names if name not in _NEVER_RESTORED]
    resolved = _with_saved_values(args, saved, names, given, actions, source)
    if own_data and resolved.dataset_file != args.dataset_file:
        _fit_dataset_file(resolved, saved)
    _report_other_processes(saved, resolved)
    _print_differences(saved, resolved)
    return resolved


def split_flags_of(saved: Flags) -> Flags:
    """The flags that chose the validation images of a checkpoint's run; empty for COCO paths."""
    if not any(saved.get(name) for name in OWN_DATA_PATHS):
        return {}
    fraction, seed = saved.get("val_fraction"), saved.get("split_seed")
    return {
        "val_fraction": DEFAULT_VAL_FRACTION if fraction is None else fraction,
        "split_seed": saved.get("seed") if seed is None else seed,
    }


def _with_split_seed(saved: Flags, args: argparse.Namespace) -> Flags:
    """Saved flags that keep the validation images of the run if ``--seed`` changes."""
    split = split_flags_of(saved)
    if not split or split["split_seed"] == args.seed:
        return saved
    return {**saved, "split_seed": split["split_seed"]}


def resolve_for_new_run(
    args: argparse.Namespace,
    flag: str,
    checkpoint: Mapping[str, Any],
    given: Collection[str],
    actions: Actions,
) -> argparse.Namespace:
    """Resolve the flags of a new run whose detector is initialized from a checkpoint.

    Architecture flags of the detector that were not given are restored from the checkpoint, and for
    the focal loss ``iou_targets``: it determines the meaning of the scores.

    Args:
        args: all flags; not changed.
        flag: ``finetune`` (loads matching weights) or ``frozen_weights``.
        checkpoint: content of the file given by the flag.
        given: names of the flags given explicitly.
        actions: argparse actions of main.py.

    Raises:
        UserError: if a saved flag has an invalid value, or, with ``frozen_weights``, a given flag
            contradicts the weights.
    """
    path = getattr(args, flag)
    source = f"--{flag} {path}"
    flags = flags_in(checkpoint, source)
    if flags:
        flags = _DETECTOR_DEFAULTS | {"cls_loss": cls_loss_in(checkpoint, path)} | flags
    else:
        flags = unsaved_flags(checkpoint, path, given)
    saved = architecture_of(model_state(checkpoint, path)) | flags
    if flag == "frozen_weights":
        _check_contradictions(args, saved, _DETECTOR, given, source)
    for name in _DETECTOR:
        if name in given and name in saved and _differ(saved[name], getattr(args, name)):
            print(f"--{name}: {saved[name]} in {path}, now {getattr(args, name)}")
    new = saved | {name: getattr(args, name) for name in given}
    is_focal = new.get("cls_loss") == "focal"
    names = [*_DETECTOR, *(["iou_targets"] if is_focal else [])]
    if not (is_focal and new.get("query_design") == "anchor"):
        names.remove("overlap_penalty")
    return _with_saved_values(args, saved, names, given, actions, source)


def _check_contradictions(
    args: argparse.Namespace,
    saved: Flags,
    names: Iterable[str],
    given: Collection[str],
    source: str,
) -> None:
    wrong = [n for n in names if n in given and n in saved and _differ(saved[n], getattr(args, n))]
    if not wrong:
        return
    given_flags = ", ".join(as_flag(name, getattr(args, name)) for name in wrong)
    trained = ", ".join(as_flag(name, saved[name]) for name in wrong)
    path = source.split(" ", 1)[1]
    raise UserError(
        f"{given_flags}: {path} was trained with {trained}; omit the flag, or start a new run from "
        f"the matching weights with --finetune {path}"
    )


def _with_saved_values(
    args: argparse.Namespace,
    saved: Flags,
    names: Iterable[str],
    given: Collection[str],
    actions: Actions,
    source: str,
) -> argparse.Namespace:
    """A copy of the flags; those that were not given get their saved values, which are printed."""
    resolved = copy.copy(args)
    restored = []
    for name in names:
        if name in given or name not in saved or not _differ(saved[name], getattr(args, name)):
            continue
        if not accepts_value(actions[name], saved[name]):
            raise UserError(
                f"{source}: the stored flag --{name} has the invalid value {saved[name]!r}; "
                "set it on the command line"
            )
        setattr(resolved, name, saved[name])
        restored.append(as_flag(name, saved[name]))
    if restored:
        print(f"From {source.split(' ', 1)[1]}: {', '.join(restored)}")
    return resolved


def _fit_dataset_file(args: argparse.Namespace, saved: Flags) -> None:
    """Adapt ``dataset_file`` from the checkpoint to data paths given on the command line, in place.

    If ``coco_path`` is not a synthetic shapes dataset, the data is read as COCO. Panoptic data in
    a single folder needs no ``--coco_panoptic_path``.
    """
    if args.data or args.voc_path or args.yolo_path:
        args.dataset_file = "coco" if args.data else "voc" if args.voc_path else "yolo"
        return
    if args.dataset_file in ("voc", "yolo"):
        args.dataset_file = "coco"
    if not (args.coco_path and is_shapes_dataset(args.coco_path)):
        args.dataset_file = args.dataset_file.replace("shapes", "coco")
    if args.dataset_file == "coco_panoptic" and args.coco_path and not args.coco_panoptic_path:
        here = Path(args.coco_path)
        has_maps = (here / "annotations" / "panoptic_val2017.json").is_file()
        before = saved.get("coco_panoptic_path")
        args.coco_panoptic_path = str(here) if has_maps or before is None else before


def _print_differences(saved: Flags, args: argparse.Namespace) -> None:
    # Flags added after the checkpoint was written count as default.
    saved = {k: v for k, v in NEW_FLAG_DEFAULTS.items() if v is not None} | saved
    for name, now in sorted(vars(args).items()):
        if name not in _NEVER_RESTORED and name in saved and _differ(saved[name], now):
            print(f"--{name}: {saved[name]} in the checkpoint, now {now}")


def _report_other_processes(saved: Flags, args: argparse.Namespace) -> None:
    names = ("world_size", "batch_size", "accum_steps")
    before, now = ([flags.get(name) or 1 for name in names] for flags in (saved, vars(args)))
    if all(isinstance(number, int) for number in before) and before[0] != now[0] and not args.eval:
        sizes = f"images per optimizer step: {math.prod(before)} before, {math.prod(now)} now"
        print(f"World size changed from {before[0]} to {now[0]}; {sizes}")


def _differ(saved: Any, now: Any) -> bool:
    """Whether two values of a flag differ; saved values may have any type.

    Lists and tuples of equal numbers do not differ.
    """
    if isinstance(saved, list | tuple) and isinstance(now, list | tuple):
        return len(saved) != len(now) or any(map(_differ, saved, now))
    if isinstance(saved, int | float) and isinstance(now, int | float):
        return saved != now
    return repr(saved) != repr(now)


def as_flag(name: str, value: Any) -> str:
    """A flag with its value, for messages: ``--nheads 8``, ``--dilation``, ``no --dilation``."""
    if name == "aux_loss":
        return "--aux_loss" if value else "--no_aux_loss"
    if isinstance(value, bool):
        return f"--{name}" if value else f"no --{name}"
    words = value if isinstance(value, list | tuple) else [value]
    return " ".join([f"--{name}", *map(str, words)])

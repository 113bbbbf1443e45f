"""First lines of a run: data, model, device and output folder."""

import argparse
import textwrap
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from training.data import Data
from training.network import num_trainable
from training.optimization.plan import TrainingPlan, build_plan
from training.resume import Start
from util.distributed.processes import get_world_size
from util.system.precision import describe_amp
from util.text import count, first_of

_CLASSES_SHOWN = 20
_LABEL_WIDTH = 12
_WIDTH = 100
_NO_BREAK = "\N{NO-BREAK SPACE}"


def build_opening(args: argparse.Namespace, start: Start, data: Data, model: nn.Module) -> str:
    """Describe data, model, device and output folder of a run.

    Args:
        model: model, on its device.
    """
    splits = {"training": data.train_set, "validation": data.val_set}
    counts = {name: objects_by_class(split) for name, split in splits.items() if split is not None}
    entries = {name: _split(splits[name], objects) for name, objects in counts.items()}
    entries["classes"] = _classes(counts, data.classes.names)
    entries["model"] = _model(args, data.num_classes, model)
    entries["weights"] = _weights(args, start)
    entries["device"] = _device(args)
    if not args.eval:
        entries["epochs"] = _epochs(build_plan(args), len(data.train_set))
    entries["output"] = args.output_dir or "nothing is saved"
    return "\n".join(_wrapped(label, text) for label, text in entries.items()) + "\n"


def objects_by_class(dataset: Any) -> Counter[int]:
    """Number of objects by category id, not counting crowds; stuff segments are counted too.

    Args:
        dataset: its attribute ``coco`` is a pycocotools index, or the content of a panoptic file.
    """
    coco = getattr(dataset, "coco", None)
    if isinstance(coco, Mapping):
        objects = [segment for row in coco["annotations"] for segment in row["segments_info"]]
    else:
        objects = list(getattr(coco, "anns", {}).values())
    return Counter(row["category_id"] for row in objects if not row.get("iscrowd"))


def _split(dataset: Any, objects: Counter[int]) -> str:
    without = _num_without_objects(dataset)
    empty = f" ({without} without objects)" if without else ""
    origin = getattr(dataset, "origin", dataset.ann_file)
    return (
        f"{count(len(dataset), 'image')}{empty}, {count(objects.total(), 'object')} from {origin}"
    )


def _num_without_objects(dataset: Any) -> int:
    """Number of images without objects; 0 for data without a pycocotools index."""
    objects = getattr(getattr(dataset, "coco", None), "anns", None)
    if objects is None:
        return 0
    return len(dataset) - len(
        {row["image_id"] for row in objects.values() if not row.get("iscrowd")}
    )


def _classes(counts: Mapping[str, Counter[int]], names: Mapping[int, str]) -> str:
    """Classes with their number of objects in each split, most common first."""
    total = sum(counts.values(), Counter())
    ids = sorted(names, key=lambda i: (-total[i], names[i]))
    numbers = {i: "/".join(str(objects[i]) for objects in counts.values()) for i in ids}
    classes = [f"{names[i]} {numbers[i]}".replace(" ", _NO_BREAK) for i in ids]
    listed = first_of(classes, _CLASSES_SHOWN)
    return f"{len(ids)}, with {'/'.join(counts)} objects: {listed}"


def _model(args: argparse.Namespace, num_classes: int, model: nn.Module) -> str:
    number = sum(p.numel() for p in model.parameters())
    heads = "boxes and masks" if args.masks else "boxes"
    kind = "anchor queries" if args.query_design == "anchor" else "queries"
    return (
        f"DETR for {heads}, {args.backbone}, {number / 1e6:.1f} million parameters "
        f"({num_trainable(model) / 1e6:.1f} trained), {args.num_queries} {kind}, "
        f"classification head with {num_classes} rows plus no-object"
    )


def _weights(args: argparse.Namespace, start: Start) -> str:
    if start.resume is not None:
        return f"from {start.resume.path}"
    if start.finetune is not None:
        return f"matching weights from {start.finetune.path}"
    if start.frozen is not None:
        return f"frozen detector from {start.frozen.path}, random mask head"
    if args.backbone_weights == "none":
        return "random"
    source = {"imagenet": "ImageNet"}.get(args.backbone_weights, args.backbone_weights)
    return f"backbone from {source}, transformer and heads random"


def _device(args: argparse.Namespace) -> str:
    device = torch.device(args.device)
    if device.type == "cuda":
        name = f"{device}, {torch.cuda.get_device_name(device)}"
    else:
        name = f"{device}, {count(torch.get_num_threads(), 'thread')}"
    processes = f", {get_world_size()} processes" if get_world_size() > 1 else ""
    return f"{name}{processes}, {describe_amp(args.amp, getattr(args, 'amp_auto', ''))}"


def _epochs(plan: TrainingPlan, num_images: int) -> str:
    frozen = min(plan.freeze_backbone_epochs, plan.epochs)
    last = _steps(plan, plan.epochs - 1, num_images)
    if not frozen:
        return f"{plan.epochs}, each with {last}"
    first = f"{frozen} with a frozen backbone, each with {_steps(plan, 0, num_images)}"
    return f"{first}; then {plan.epochs - frozen}, each with {last}"


def _steps(plan: TrainingPlan, epoch: int, num_images: int) -> str:
    per_step = plan.images_per_step(epoch)
    return f"{count(num_images // per_step, 'step')} of {count(per_step, 'image')}"


def _wrapped(label: str, text: str) -> str:
    """Wrap to lines of 100 characters; longer words, such as paths, are not broken."""
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=f"{label:<{_LABEL_WIDTH}}",
        subsequent_indent=" " * _LABEL_WIDTH,
        break_long_words=False,
        break_on_hyphens=False,
    ).replace(_NO_BREAK, " ")

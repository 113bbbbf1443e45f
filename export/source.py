"""The model to export, from the name of a released model or from a file with weights."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

import hubconf
from datasets.coco import PUBLISHED_SCALES
from export.architecture import Architecture, liven
from export.weights import EMA_HELP, flags_of, read_weights
from models.coco_categories import CATEGORY_NAMES, RELEASED_NUM_CLASSES
from models.weights import load_model_state, model_state, without_ddp_prefix
from models.zoo import RELEASED_MODELS
from training.checkpoint import classes_in
from util.cli.command_line import ArgumentParser, FlagGroup, positive_number
from util.errors import UserError
from util.options import NEW_FLAG_DEFAULTS

# The paper's minimal model takes no padding mask and is left out.
HUB_MODELS = tuple(name for name, released in RELEASED_MODELS.items() if not released.minimal)
RELEASED = "released"
_BY_FILE = {RELEASED_MODELS[name].file: RELEASED_MODELS[name] for name in HUB_MODELS}


@dataclass(frozen=True)
class Source:
    """A model in evaluation mode, and what is known about it.

    Attributes:
        name: for messages and metadata.
        model: a `models.detr.DETR` or `models.segmentation.DETRsegm`.
        architecture: how it is made.
        categories: name of each category id, as far as they are known.
        is_thing: by category id, as far as it is known.
        short_side: length in pixels to which evaluation scales the short side of images.
        max_size: and what the long side may not exceed.
    """

    name: str
    model: nn.Module
    architecture: Architecture
    categories: Mapping[int, str]
    short_side: int = max(PUBLISHED_SCALES)
    max_size: int = NEW_FLAG_DEFAULTS["max_size"]
    is_thing: Mapping[int, bool] = field(default_factory=dict)


def add_model_flags(parser: ArgumentParser) -> None:
    """Add the flags that `source_of` reads."""
    group = FlagGroup(parser, "model")
    group.add(
        "--hub",
        "a released model by its name in torch.hub; not detr_demo, which takes no padding mask",
        choices=HUB_MODELS,
    )
    group.add(
        "--weights",
        f'weights for --hub: a file, or "{RELEASED}" to fetch them; random ones without',
    )
    add_checkpoint_flags(group)


def add_checkpoint_flags(group: FlagGroup) -> None:
    """Add ``--checkpoint`` and the flags that `told_by` and `from_file` read."""
    group.add(
        "--checkpoint",
        "model and weights of a file: a checkpoint of main.py, a released one, safetensors",
    )
    group.add_switch(
        "--dilation", "the --checkpoint is a DC5 model, which a file without flags does not say"
    )
    group.add(
        "--nheads",
        "attention heads, where the --checkpoint does not say (8)",
        type=positive_number,
    )
    group.add_switch("--ema", EMA_HELP)


def told_by(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags of `add_checkpoint_flags` say about a model; None where they do not."""
    return {"dilation": args.dilation or None, "nheads": args.nheads}


def source_of(args: argparse.Namespace) -> Source:
    """The model that the flags name.

    Raises:
        UserError: flags that contradict each other, or a file that holds no such model.
    """
    if bool(args.hub) == bool(args.checkpoint):
        raise UserError("give either --hub NAME or --checkpoint FILE")
    if args.checkpoint:
        if args.weights:
            raise UserError("--weights belongs to --hub; --checkpoint brings its own")
        return from_file(args.checkpoint, told_by(args), averaged=args.ema)
    if args.dilation or args.nheads is not None:
        raise UserError(f"--dilation and --nheads belong to --checkpoint; {args.hub} has its own")
    return from_hub(args.hub, args.weights, args.ema)


def from_file(
    path: str, told: Mapping[str, Any], name: str | None = None, averaged: bool = False
) -> Source:
    """The model of a file with weights.

    Args:
        path: anything that `export.weights.read_weights` reads.
        told: flags that go before those in the file; None for those that nobody told.
        name: the file's name, where None.
        averaged: the averaged weights in the file, in place of the last.

    Raises:
        UserError: the file cannot be read, or holds no DETR.
    """
    checkpoint = read_weights(path, averaged)
    released = _BY_FILE.get(Path(path).name)
    known: dict[str, Any] = {}
    if released is not None:
        known = {"dilation": released.dilation, "dataset_file": released.categories}
    told = {**known, **flags_of(checkpoint), **{k: v for k, v in told.items() if v is not None}}
    state = without_ddp_prefix(model_state(checkpoint, path))
    architecture = Architecture.of(state, told, path)
    if "dilation" not in told:
        print(f"{path} does not say whether it is a DC5 model: taken as none (see --dilation)")
    model = architecture.build()
    load_model_state(model, state, path, flags_of_main=False)
    categories, is_thing = classes_in(checkpoint)
    coco_names = _coco_names(told.get("dataset_file"), architecture.num_classes)
    return Source(
        name or Path(path).stem,
        model,
        architecture,
        categories or coco_names,
        short_side=max(told.get("scales") or PUBLISHED_SCALES),
        max_size=told.get("max_size", NEW_FLAG_DEFAULTS["max_size"]),
        is_thing=is_thing,
    )


def _coco_names(dataset_file: Any, num_classes: int) -> Mapping[int, str]:
    """Names for files without any, of the original, where the head is that of COCO."""
    is_coco = RELEASED_NUM_CLASSES.get(dataset_file) == num_classes
    return CATEGORY_NAMES[dataset_file] if is_coco else {}


def from_hub(name: str, weights: str | None, averaged: bool = False) -> Source:
    """A released model by name.

    Args:
        name: one of `HUB_MODELS`.
        weights: a file, ``released``, or None for random weights.
        averaged: the averaged weights in the file, in place of the last.

    Raises:
        UserError: the weights cannot be had or do not fit.
    """
    released = RELEASED_MODELS[name]
    told = {"backbone": released.backbone, "dilation": released.dilation, "nheads": 8}
    if weights not in (None, RELEASED):
        source = from_file(weights, told, name, averaged)
        if source.architecture.masks != released.masks:
            kind = "of a segmentation model" if released.masks else "of a box model"
            raise UserError(f"--weights {weights}: {name} needs the weights {kind}")
        return source
    if averaged:
        raise UserError("--ema needs a file of your own: give --checkpoint FILE or --weights FILE")
    architecture = Architecture(
        backbone=released.backbone,
        dilation=released.dilation,
        masks=released.masks,
        num_classes=released.num_classes,
    )
    if weights == RELEASED:
        model: nn.Module = getattr(hubconf, name)(pretrained=True)
    else:
        print(f"{name}: weights are random; for trained ones give --weights released, or a file")
        model = architecture.build()
        liven(model)
    return Source(name, model.eval(), architecture, released.category_names)

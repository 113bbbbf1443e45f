"""The model to export, from the name of a released model or from a file with weights."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

import hubconf
from datasets.coco import PUBLISHED_SCALES
from export.architecture import Architecture, liven
from export.weights import flags_of, read_weights
from util.command_line import ArgumentParser, FlagGroup
from util.errors import UserError
from util.model_zoo import RELEASED_MODELS
from util.options import NEW_FLAG_DEFAULTS
from util.weights import load_model_state, model_state

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
        short_side: length in pixels to which evaluation scales the short side of images.
        max_size: and what the long side may not exceed.
    """

    name: str
    model: nn.Module
    architecture: Architecture
    categories: Mapping[int, str]
    short_side: int = max(PUBLISHED_SCALES)
    max_size: int = NEW_FLAG_DEFAULTS["max_size"]


def add_model_flags(parser: ArgumentParser) -> None:
    """Add the flags that `source_of` reads."""
    group = FlagGroup(parser, "model")
    group.add("--hub", "a released model by its name in torch.hub", choices=HUB_MODELS)
    group.add(
        "--weights",
        f'weights for --hub: a file, or "{RELEASED}" to fetch them; random ones without',
    )
    group.add(
        "--checkpoint",
        "model and weights of a file: a checkpoint of main.py, a released one, safetensors",
    )
    group.add_switch(
        "--dilation", "the --checkpoint is a DC5 model, which a file without flags does not say"
    )
    group.add("--nheads", "attention heads, where the --checkpoint does not say (8)", type=int)


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
        return from_file(
            args.checkpoint, {"dilation": args.dilation or None, "nheads": args.nheads}
        )
    if args.dilation or args.nheads:
        raise UserError(f"--dilation and --nheads belong to --checkpoint; {args.hub} has its own")
    return from_hub(args.hub, args.weights)


def from_file(path: str, told: Mapping[str, Any], name: str | None = None) -> Source:
    """The model of a file with weights.

    Args:
        path: anything that `export.weights.read_weights` reads.
        told: flags that go before those in the file; None for those that nobody told.
        name: the file's name, where None.

    Raises:
        UserError: the file cannot be read, or holds no DETR.
    """
    checkpoint = read_weights(path)
    released = _BY_FILE.get(Path(path).name)
    known = {} if released is None else {"dilation": released.dilation}
    told = {**known, **flags_of(checkpoint), **{k: v for k, v in told.items() if v is not None}}
    state = {k.removeprefix("module."): v for k, v in model_state(checkpoint, path).items()}
    architecture = Architecture.of(state, told, path)
    if "dilation" not in told:
        print(f"{path} does not say whether it is a DC5 model: taken as none (see --dilation)")
    model = architecture.build()
    load_model_state(model, state, path)
    return Source(
        name or Path(path).stem,
        model,
        architecture,
        checkpoint.get("categories", {} if released is None else released.category_names),
        short_side=max(told.get("scales") or PUBLISHED_SCALES),
        max_size=told.get("max_size", NEW_FLAG_DEFAULTS["max_size"]),
    )


def from_hub(name: str, weights: str | None) -> Source:
    """A released model by name.

    Args:
        name: one of `HUB_MODELS`.
        weights: a file, ``released``, or None for random weights.

    Raises:
        UserError: the weights cannot be had or do not fit.
    """
    released = RELEASED_MODELS[name]
    told = {"backbone": released.backbone, "dilation": released.dilation, "nheads": 8}
    if weights not in (None, RELEASED):
        source = from_file(weights, told, name)
        if source.architecture.masks != released.masks:
            kind = "of a segmentation model" if released.masks else "of a box model"
            raise UserError(f"--weights {weights}: {name} needs the weights {kind}")
        return source
    architecture = Architecture(
        backbone=released.backbone,
        dilation=released.dilation,
        masks=released.masks,
        num_classes=released.num_classes,
    )
    if weights == RELEASED:
        model: nn.Module = getattr(hubconf, name)(pretrained=True)
    else:
        model = architecture.build()
        liven(model)
    return Source(name, model.eval(), architecture, released.category_names)

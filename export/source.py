"""Load a DETR from a checkpoint or by the name of a released model, for export and examples."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import hubconf
from datasets.coco import PUBLISHED_SCALES
from datasets.formats.held_out import NO_IMAGES, ImageSplit
from datasets.loading.byte_images import Normalization
from export.architecture import Architecture, amplify_random_weights
from export.loaded_model import LoadedModel
from export.weights import EMA_HELP, flags_of, read_weights
from models.demo import MinimalDETR
from models.panoptic import SEGMENT_THRESHOLDS, coco_is_thing
from models.released.coco_categories import CATEGORY_NAMES, RELEASED_NUM_CLASSES
from models.released.zoo import RELEASED_MODELS, released_by_file
from models.weights import assumed_cls_loss, load_model_state, model_state, without_ddp_prefix
from training.checkpoint import best_f1_threshold_in, classes_in
from training.class_rows import category_ids_in
from training.flags.inferred import report_unknown_dilation
from util.cli.command_line import ArgumentParser, FlagGroup, positive_int
from util.errors import UserError
from util.options import NEW_FLAG_DEFAULTS

# Without detr_demo, which takes no padding mask.
HUB_MODELS = tuple(name for name, released in RELEASED_MODELS.items() if not released.minimal)
RELEASED = "released"
CLS_LOSSES = tuple(SEGMENT_THRESHOLDS)
CLS_LOSS_HELP = (
    "classification loss of the model (only needed if the file stores no flags; default: focal for "
    "anchor queries, else ce)"
)


@dataclass(frozen=True, kw_only=True)
class Source(LoadedModel):
    """A DETR to export.

    Attributes:
        name: name of the model in messages and metadata.
        model: a `models.detr.DETR`, `models.segmentation.DETRsegm` or `models.demo.MinimalDETR`.
        architecture: the flags that build the model.
        split: images that were trained on and held out, if the file has them.
    """

    name: str
    architecture: Architecture
    split: ImageSplit = NO_IMAGES

    @property
    def is_minimal(self) -> bool:
        """Whether this is detr_demo; then ``architecture`` has its sizes only."""
        return isinstance(self.model, MinimalDETR)


def add_model_flags(parser: ArgumentParser) -> None:
    """Add the flags that `source_of` reads."""
    group = FlagGroup(parser, "model")
    group.add(
        "--hub",
        "torch.hub model to export, instead of --checkpoint",
        choices=tuple(RELEASED_MODELS),
    )
    group.add(
        "--weights",
        f'weights for --hub: a file, or "{RELEASED}" to download them (default: random weights)',
    )
    add_checkpoint_flags(group)


def add_checkpoint_flags(group: FlagGroup) -> None:
    """Add ``--checkpoint`` and the flags that `known_flags` and `from_file` read."""
    group.add(
        "--checkpoint",
        "checkpoint written by main.py, released .pth file, or .safetensors file",
    )
    dc5 = "the --checkpoint is a DC5 model (only needed if the file stores no flags)"
    group.add_switch("--dilation", dc5)
    group.add(
        "--nheads",
        "number of attention heads (only needed if the file stores no flags; default: 8)",
        type=positive_int,
    )
    group.add("--cls_loss", CLS_LOSS_HELP, choices=CLS_LOSSES, default=None)
    group.add_switch("--ema", EMA_HELP)


def known_flags(args: argparse.Namespace) -> dict[str, Any]:
    """Model flags given on the command line (see `add_checkpoint_flags`); None if not given."""
    return {"dilation": args.dilation or None, "nheads": args.nheads, "cls_loss": args.cls_loss}


def source_of(args: argparse.Namespace) -> Source:
    """Load the model that the flags select.

    Raises:
        UserError: contradictory flags, or a file without a DETR.
    """
    if bool(args.hub) == bool(args.checkpoint):
        raise UserError("give either --hub NAME or --checkpoint FILE")
    if args.checkpoint:
        if args.weights:
            raise UserError("--weights is only used with --hub: --checkpoint has its own weights")
        return from_file(args.checkpoint, known_flags(args), averaged=args.ema)
    if any(value is not None for value in known_flags(args).values()):
        raise UserError(
            "--dilation, --nheads and --cls_loss are only used with --checkpoint: omit them with "
            f"--hub {args.hub}"
        )
    return from_hub(args.hub, args.weights, args.ema)


def from_file(
    path: str, known: Mapping[str, Any], name: str | None = None, averaged: bool = False
) -> Source:
    """Load the model of a file with weights.

    Args:
        path: a file in any format of `export.weights.read_weights`.
        known: flags of the model by name, for files without flags; None: not known.
        name: name of the model; None: the name of the file.
        averaged: load the averaged (EMA) weights.

    Raises:
        UserError: the file cannot be read, contains no DETR model, or contradicts ``known``.
    """
    checkpoint = read_weights(path, averaged)
    flags: dict[str, Any] = {}
    if released := released_by_file(path):
        flags = {"dilation": released.dilation, "nheads": 8, "dataset_file": released.categories}
    flags |= flags_of(checkpoint)
    state = without_ddp_prefix(model_state(checkpoint, path))
    if flags and (loss := assumed_cls_loss(state)) == "ce":
        flags.setdefault("cls_loss", loss)
    flags = _without_contradiction(flags, known, path)
    architecture = Architecture.of(state, flags, path)
    if "dilation" not in flags:
        report_unknown_dilation(path)
    if "nheads" not in flags and not architecture.masks:
        print(f"{path} does not store its number of attention heads: loaded with --nheads 8")
    if "cls_loss" not in flags and architecture.query_design == "anchor":
        print(
            f"{path} does not store its classification loss: loaded with --cls_loss focal, as in "
            "all recipes with anchors; give --cls_loss ce if that is wrong. It is loaded without "
            "--overlap_penalty"
        )
    model = architecture.build()
    load_model_state(model, state, path, flags_of_main=False)
    categories, is_thing = classes_in(checkpoint)
    dataset_file = str(flags.get("dataset_file"))
    coco_names = _coco_names(dataset_file, architecture.num_classes)
    category_ids = category_ids_in(checkpoint, architecture.num_classes, path)
    return Source(
        name=name or Path(path).stem,
        model=model,
        architecture=architecture,
        num_classes=architecture.num_classes,
        categories=categories or coco_names,
        unused_ids=_unused_ids(checkpoint, category_ids.by_row, path),
        is_thing=is_thing or _coco_things(dataset_file, architecture.num_classes),
        category_ids=category_ids.saved(),
        split=ImageSplit.read(checkpoint.get("split")),
        short_side=max(_side(n, path) for n in _listed(flags.get("scales") or PUBLISHED_SCALES)),
        max_size=_side(flags.get("max_size", NEW_FLAG_DEFAULTS["max_size"]), path),
        normalization=Normalization.of(flags, path),
        best_threshold=best_f1_threshold_in(checkpoint, averaged),
        segment_threshold=_score(
            flags.get("panoptic_threshold"), SEGMENT_THRESHOLDS[architecture.cls_loss]
        ),
    )


def _unused_ids(checkpoint: Mapping[str, Any], by_row: Sequence[int], path: str) -> frozenset[int]:
    """Category ids of rows of the head that belong to no class; printed if there are any.

    Args:
        checkpoint: content of the file. Only Hugging Face folders, and files converted from them,
            have an entry ``unused_ids``. Checkpoints of main.py have none: all their rows are
            predicted, as in the evaluation.
    """
    stated = checkpoint.get("unused_ids")
    if not isinstance(stated, list):
        return frozenset()
    unused = [(row, i) for row, i in enumerate(by_row) if i in stated]
    if unused:
        rows = ", ".join(str(row) for row, _ in unused)
        print(f"{path}: rows of the classification head without a class, not predicted: {rows}")
    return frozenset(i for _, i in unused)


def _score(value: Any, default: Any) -> Any:
    """A score in a file, or ``default`` if it is something else."""
    return float(value) if type(value) in (int, float) and 0 <= value <= 1 else default


def _without_contradiction(
    flags: Mapping[str, Any], known: Mapping[str, Any], path: str
) -> dict[str, Any]:
    """The flags of a file and those that are known without it."""
    given = {name: value for name, value in known.items() if value is not None}
    for name, value in given.items():
        if flags.get(name, value) != value:
            raise UserError(
                f"{path} has {name} {flags[name]}, which contradicts {name} {value}: give "
                f"--checkpoint {path} without --{name}"
            )
    return {**flags, **given}


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _side(value: Any, path: str) -> int:
    """An image size in the flags of a file."""
    if type(value) is not int or value < 1:
        raise UserError(f"{path}: its image sizes (scales, max_size) are not positive numbers")
    return value


def _coco_names(dataset_file: Any, num_classes: int) -> Mapping[int, str]:
    """COCO's class names for files of the original, which store none, if the head has its size."""
    is_coco = RELEASED_NUM_CLASSES.get(dataset_file) == num_classes
    return CATEGORY_NAMES[dataset_file] if is_coco else {}


def _coco_things(dataset_file: Any, num_classes: int) -> Mapping[int, bool]:
    """COCO's things and stuff, for panoptic files of the original, which do not store them."""
    return coco_is_thing(num_classes) if dataset_file == "coco_panoptic" else {}


def from_hub(name: str, weights: str | None, averaged: bool = False) -> Source:
    """Load a released model by name.

    Args:
        name: key of `models.released.zoo.RELEASED_MODELS`.
        weights: a file, ``released``, or None for random weights.
        averaged: load the averaged (EMA) weights of the file.

    Raises:
        UserError: the weights cannot be read or downloaded, or do not fit.
    """
    released = RELEASED_MODELS[name]
    if released.minimal:
        return _minimal_source(name, weights)
    if weights not in (None, RELEASED):
        flags = {"backbone": released.backbone, "dilation": released.dilation, "nheads": 8}
        source = from_file(weights, flags, name, averaged)
        if source.architecture.masks != released.masks:
            kind = "segmentation" if released.masks else "box"
            raise UserError(f"--weights {weights}: {name} needs the weights of a {kind} model")
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
        print(f"{name}: random weights; for trained weights give --weights released, or a file")
        model = architecture.build()
        amplify_random_weights(model)
    return Source(
        name=name,
        model=model.eval(),
        architecture=architecture,
        num_classes=released.num_classes,
        categories=released.category_names,
        is_thing=_coco_things(released.categories, released.num_classes),
    )


def _minimal_source(name: str, weights: str | None) -> Source:
    """detr_demo; see `from_hub`."""
    released = RELEASED_MODELS[name]
    num_classes = released.num_classes
    if weights == RELEASED:
        model: nn.Module = getattr(hubconf, name)(pretrained=True)
    elif weights is None:
        print(f"{name}: random weights; for trained weights give --weights released, or a file")
        model = MinimalDETR(num_classes)
        amplify_random_weights(model)
    else:
        state = model_state(read_weights(weights), weights)
        if "linear_class.bias" not in state:
            raise UserError(f"--weights {weights}: is not a {name} file (no linear_class)")
        num_classes = state["linear_class.bias"].numel() - 1
        model = MinimalDETR(num_classes)
        load_model_state(model, state, weights, flags_of_main=False)
    return Source(
        name=name,
        model=model.eval(),
        architecture=Architecture(position_embedding="learned", num_classes=num_classes),
        num_classes=num_classes,
        categories=_coco_names("coco", num_classes),
    )


def released_model(name: str, random_weights: bool, device: torch.device) -> LoadedModel:
    """Load any released model, including detr_demo.

    Args:
        name: key of `models.released.zoo.RELEASED_MODELS`.
        random_weights: keep the random initial weights of a fixed seed.

    Raises:
        UserError: the weights cannot be downloaded.
    """
    released = RELEASED_MODELS[name]
    options: dict[str, Any] = {} if released.minimal else {"backbone_weights": "none"}
    torch.manual_seed(0)
    model = getattr(hubconf, name)(pretrained=not random_weights, **options)
    return LoadedModel(
        model=model.to(device).eval(),
        num_classes=released.num_classes,
        categories=released.category_names,
        is_thing=_coco_things(released.categories, released.num_classes),
    )

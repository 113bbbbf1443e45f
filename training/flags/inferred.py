"""Flags inferred from weights, for files that store no flags."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from models.backbone import match_resnet
from models.released.zoo import released_by_file
from models.weights import DETECTOR_PREFIX, architecture_flags, without_ddp_prefix
from training.checkpoint import cls_loss_in


def architecture_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Architecture flags that shapes determine, by name; empty without a detector."""
    parts = {k.removeprefix(DETECTOR_PREFIX): v for k, v in without_ddp_prefix(state).items()}
    if "class_embed.bias" not in parts:
        return {}
    flags, backbone = architecture_flags(parts), match_resnet(parts)
    return flags if backbone is None else {**flags, "backbone": backbone}


def unsaved_flags(
    checkpoint: Mapping[str, Any], path: str, given: Collection[str]
) -> dict[str, Any]:
    """Flags of a file without flags that shapes do not determine; assumptions are printed.

    Args:
        path: path or URL of the file. Released files are recognized by their names.
        given: names of the flags given explicitly, for which nothing is assumed.

    Returns:
        ``cls_loss`` unless it is given, and ``dilation`` of a released file.
    """
    flags: dict[str, Any] = {}
    if "cls_loss" not in given:
        flags["cls_loss"] = _assumed_cls_loss(checkpoint, path)
    released = released_by_file(path)
    if released is not None:
        flags["dilation"] = released.dilation
    elif "dilation" not in given:
        report_unknown_dilation(path)
    return flags


def report_unknown_dilation(path: str) -> None:
    """Print that a file, which stores no flags, is loaded as a model without dilation."""
    print(f"{path} does not store whether it is a DC5 model: loaded without --dilation")


def _assumed_cls_loss(checkpoint: Mapping[str, Any], path: str) -> str:
    """Classification loss of a file without flags; printed if it is not the default."""
    assumed = cls_loss_in(checkpoint, path)
    if assumed != "ce":
        print(
            f"{path} does not store its classification loss: --cls_loss {assumed} is assumed, as "
            "in all recipes with anchors"
        )
    return assumed

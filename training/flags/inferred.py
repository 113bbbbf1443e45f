"""Flags of a model that its weights determine, for files without saved flags."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.backbone import match_resnet
from models.weights import DETECTOR_PREFIX, architecture_flags, without_ddp_prefix
from training.checkpoint import cls_loss_in


def architecture_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Architecture flags by name, as far as shapes determine them; empty without a detector."""
    parts = {k.removeprefix(DETECTOR_PREFIX): v for k, v in without_ddp_prefix(state).items()}
    if "class_embed.bias" not in parts:
        return {}
    flags: dict[str, Any] = {k.removeprefix("--"): v for k, v in architecture_flags(parts).items()}
    flags["pre_norm"] = "transformer.encoder.norm.weight" in parts
    backbone = match_resnet(parts)
    return flags if backbone is None else {**flags, "backbone": backbone}


def assumed_cls_loss(checkpoint: Mapping[str, Any], path: str) -> str:
    """Classification loss of a file without flags; printed if it is not the default."""
    assumed = cls_loss_in(checkpoint, path)
    if assumed != "ce":
        print(
            f"{path} does not say its classification loss: --cls_loss {assumed} is assumed, as in "
            "all recipes with anchors"
        )
    return assumed

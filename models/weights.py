"""Load the weights of a checkpoint into a model whose keys and shapes match."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from util.errors import UserError
from util.text import first_of

MAX_LISTED = 5
DETECTOR_PREFIX = "detr."  # prefix of the detector's keys in a segmentation model


def model_state(checkpoint: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """State dict of the model in a checkpoint.

    Args:
        checkpoint: dict with the state dict under ``model``, or a bare state dict.
        source: file name for the error message.

    Raises:
        UserError: the checkpoint has no weights, or sparse, quantized, complex or meta tensors.
    """
    state = checkpoint.get("model", checkpoint)
    if isinstance(state, Mapping) and state and all(isinstance(v, Tensor) for v in state.values()):
        for key, value in state.items():
            if not isinstance(key, str) or not _is_plain(value):
                raise UserError(
                    f"{source}: {key!r} is not a named, dense tensor of real numbers: save the "
                    "weights as a state dict of plain tensors"
                )
        return dict(state)
    keys = ", ".join(map(str, list(checkpoint)[:MAX_LISTED])) or "none"
    raise UserError(f"{source}: has no weights under the key 'model' (its keys: {keys})")


def _is_plain(tensor: Tensor) -> bool:
    """Whether this is a dense tensor of real numbers, with data."""
    is_dense = tensor.layout == torch.strided and not tensor.is_meta
    return is_dense and not (tensor.is_quantized or tensor.is_complex())


def num_classes_in_head(state: Mapping[str, Tensor], source: str) -> int:
    """Number of classes of the classification head, without the no-object class.

    Args:
        state: state dict of a detection or segmentation model.
        source: file name for the error message.

    Raises:
        UserError: there is no classification head.
    """
    num_classes = architecture_flags(without_ddp_prefix(state)).get("num_classes")
    if num_classes is None:
        raise UserError(f"{source}: not a DETR checkpoint (no class_embed)")
    return int(num_classes)


def load_model_state(
    model: nn.Module, state: Mapping[str, Tensor], source: str, flags_of_main: bool = True
) -> None:
    """Load a state dict whose keys and shapes must match the model exactly.

    Args:
        model: receives the weights.
        state: state dict, with or without the prefix ``module.`` of DistributedDataParallel.
        source: file name for the error message.
        flags_of_main: suggest flags of main.py in the error message.

    Raises:
        UserError: keys or shapes differ; names the first differences and the flags that match.
    """
    state = without_ddp_prefix(state)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as err:
        differences = _differences(model.state_dict(), state)
        if not differences:
            raise
        fix = "give weights of the same architecture"
        if flags_of_main:
            flags = " ".join(_matching_flags(model.state_dict(), state))
            start = f"give {flags}, or" if flags else "use"
            fix = f"{start} --finetune {source} to load matching weights"
        raise UserError(
            f"{source} does not match the model: {first_of(differences, limit=2)}; {fix}"
        ) from err


def load_frozen_weights(
    model: nn.Module, detector: nn.Module, state: Mapping[str, Tensor], source: str
) -> None:
    """Load the detector of a segmentation model from a box or a segmentation checkpoint.

    Args:
        model: the segmentation model; a segmentation checkpoint also loads its mask head.
        detector: ``model.detr``; a box checkpoint loads this part only.
        state: state dict, with or without the prefix ``module.`` of DistributedDataParallel.
        source: file name for the error message.

    Raises:
        UserError: keys or shapes differ, as in `load_model_state`.
    """
    state = without_ddp_prefix(state)
    load_model_state(model if is_segmentation(state) else detector, state, source)


def without_ddp_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefix ``module.`` of DistributedDataParallel from all keys."""
    has_prefix = bool(state) and all(key.startswith("module.") for key in state)
    return {key.removeprefix("module.") if has_prefix else key: v for key, v in state.items()}


def is_segmentation(state: Mapping[str, Tensor]) -> bool:
    """Whether this is the state dict of a segmentation model."""
    return any(key.startswith(DETECTOR_PREFIX) for key in state)


def is_counter(key: str) -> bool:
    """Whether a key is a batch counter, which frozen batch norms lack and the model never uses."""
    return key.endswith(".num_batches_tracked")


def _differences(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Describe tensors that differ in shape, then keys that are missing on one side."""
    common = [key for key in own if key in state]
    shapes = [
        shape_difference(key, own[key], state[key])
        for key in common
        if own[key].shape != state[key].shape
    ]
    missing = [f"{key} is not in the file" for key in own if key not in state]
    extra = [key for key in state if key not in own and not is_counter(key)]
    return shapes + missing + [f"{key} is only in the file" for key in extra]


def shape_difference(key: str, mine: Tensor, given: Tensor) -> str:
    """Message about a tensor whose shapes in file and model differ."""
    return f"{key} is {tuple(given.shape)} in the file and {tuple(mine.shape)} in the model"


def _matching_flags(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Flags of main.py that would build a model with the shapes of ``state``."""
    current, target = architecture_flags(own), architecture_flags(state)
    flags = []
    for name, value in target.items():
        if value != current.get(name):
            switch = f"--{name}" if value else f"no --{name}"
            flags.append(switch if isinstance(value, bool) else f"--{name} {value}")
    if _backbone_shapes(own) != _backbone_shapes(state):
        flags.append("another --backbone")
    return flags


def architecture_flags(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Flags of main.py, by name, that the shapes determine.

    Args:
        state: state dict of a detection or segmentation model, without the prefix ``module.``.
    """
    parts = {key.removeprefix(DETECTOR_PREFIX): value for key, value in state.items()}
    found: dict[str, Any] = {}
    for name, key, offset in (
        ("num_classes", "class_embed.bias", -1),  # the last logit is the no-object class
        ("num_queries", "query_embed.weight", 0),
        ("hidden_dim", "input_proj.bias", 0),
        ("dim_feedforward", "transformer.decoder.layers.0.linear1.bias", 0),
    ):
        if key in parts and parts[key].dim() > 0:
            found[name] = len(parts[key]) + offset
    for name, stack in (("enc_layers", "encoder"), ("dec_layers", "decoder")):
        layers = {k.split(".")[3] for k in parts if k.startswith(f"transformer.{stack}.layers.")}
        found[name] = len(layers)
    learned = "backbone.1.row_embed.weight" in parts
    found["position_embedding"] = "learned" if learned else "sine"
    if has_anchors(parts):
        found["query_design"] = "anchor"
    found["masks"] = "mask_head.lay1.weight" in parts
    found["pre_norm"] = "transformer.encoder.norm.weight" in parts
    return found


def has_anchors(state: Mapping[str, Tensor]) -> bool:
    """Whether this is the state dict of a model with anchor queries."""
    return any(key.endswith("content_embed.weight") for key in state)


def assumed_cls_loss(state: Mapping[str, Tensor]) -> str:
    """Classification loss of weights whose file does not store it.

    Returns:
        ``focal`` for anchor queries, as in all recipes, else ``ce``: without anchor queries, files
        that store flags but not this one were written before ``--cls_loss`` existed.
    """
    return "focal" if has_anchors(state) else "ce"


def has_backbone_of(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has exactly the backbone of a model, by keys and shapes."""
    return _backbone_shapes(model.state_dict()) == _backbone_shapes(state)


def _backbone_shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    parts = {key.removeprefix(DETECTOR_PREFIX): value for key, value in state.items()}
    body = {k: v for k, v in parts.items() if k.startswith("backbone.0.body.")}
    return {k: v.shape for k, v in body.items() if not is_counter(k)}

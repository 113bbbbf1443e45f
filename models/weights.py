"""The weights of a checkpoint, and how they get into a model: all of them, or what fits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from util.errors import UserError

_MAX_LISTED = 5
DETECTOR_PREFIX = "detr."  # of the detector's keys in a segmentation model
# A switch of the command line, and the key that only models built with it have.
_SWITCHES = (("--masks", "mask_head.lay1.weight"), ("--pre_norm", "encoder.norm.weight"))


def model_state(checkpoint: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The weights in a checkpoint.

    Args:
        checkpoint: has the weights under ``model``, or is a bare state dict itself.
        source: where it came from, for the message.

    Raises:
        UserError: there are no weights in it.
    """
    state = checkpoint.get("model", checkpoint)
    if isinstance(state, Mapping) and state and all(isinstance(v, Tensor) for v in state.values()):
        return dict(state)
    keys = ", ".join(map(str, list(checkpoint)[:_MAX_LISTED])) or "nothing"
    raise UserError(f"{source}: has no weights under the key 'model' (it holds {keys})")


def num_classes_of(state: Mapping[str, Tensor], source: str) -> int:
    """How many classes the head in some weights has, without "no object".

    Args:
        state: state dict of a detection or segmentation model.
        source: where it came from, for the message.

    Raises:
        UserError: there is no such head.
    """
    heads = [value for key, value in state.items() if key.endswith("class_embed.bias")]
    if not heads:
        raise UserError(f"{source}: holds no DETR model (no class_embed)")
    return len(heads[0]) - 1  # the last logit is the no-object class


def load_model_state(
    model: nn.Module, state: Mapping[str, Tensor], source: str, flags_of_main: bool = True
) -> None:
    """Load all weights of a model, which must fit exactly.

    Args:
        model: receives the weights.
        state: state dict, with or without the ``module.`` of DistributedDataParallel.
        source: where it came from, for the message.
        flags_of_main: the message may name flags of main.py as the way out.

    Raises:
        UserError: keys or shapes differ; names the first of them and the flags that would fit.
    """
    state = without_ddp_prefix(state)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as err:
        differences = _differences(model.state_dict(), state)
        if not differences:
            raise
        way_out = "give weights of the same architecture"
        if flags_of_main:
            flags = " ".join(_fitting_flags(model.state_dict(), state))
            start = f"give {flags}, or" if flags else "use"
            way_out = f"{start} --finetune {source} to load what fits"
        raise UserError(
            f"{source} does not fit the model: {_first_of(differences, limit=2)}; {way_out}"
        ) from err


@dataclass
class FinetuneReport:
    """What `finetune_model` did; ``str()`` tells it in words.

    Attributes:
        loaded: keys taken as they are.
        resized: what was taken in part, in words.
        skipped: what has another shape, in words.
        missing: keys of the model that the file lacks.
        unused: keys of the file that the model lacks.
    """

    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.resized) + len(self.skipped) + len(self.missing)
        lines = [f"Fine-tuning: {len(self.loaded)} of {total} tensors of the model loaded"]
        for what, entries in (
            ("loaded in part", self.resized),
            ("not loaded, starts fresh", self.skipped),
            ("not in the file, starts fresh", self.missing),
            ("in the file only, not used", self.unused),
        ):
            if entries:
                lines.append(f"  {what}: {_first_of(entries, limit=_MAX_LISTED)}")
        return "\n".join(lines)


def load_frozen_weights(
    model: nn.Module, detector: nn.Module, state: Mapping[str, Tensor], source: str
) -> None:
    """Load the detector inside a segmentation model, from a box or a segmentation checkpoint.

    Args:
        model: the segmentation model. A segmentation checkpoint gives it its mask head too.
        detector: ``model.detr``, all that a box checkpoint holds.
        state: state dict, with or without the ``module.`` of DistributedDataParallel.
        source: where it came from, for the message.

    Raises:
        UserError: keys or shapes differ, as in `load_model_state`.
    """
    state = without_ddp_prefix(state)
    load_model_state(model if _has_detector_inside(state) else detector, state, source)


def finetune_model(model: nn.Module, state: Mapping[str, Tensor]) -> FinetuneReport:
    """Load what fits and leave the rest of the model as it is.

    A head for other classes is left out. Of the query embeddings the rows that both have are taken.
    Boxes go into a segmentation model and the other way round.

    Args:
        model: receives the weights.
        state: state dict, with or without the ``module.`` of DistributedDataParallel.

    Returns:
        What was loaded and what was not.

    Raises:
        UserError: nothing fits.
    """
    own = model.state_dict()
    state = _wrapped_as(own, without_ddp_prefix(state))
    report = FinetuneReport(unused=[k for k in state if k not in own and not _is_counter(k)])
    fitting = {}
    for key, mine in own.items():
        weight = _fit(key, mine, state.get(key), report)
        if weight is not None:
            fitting[key] = weight
    if not fitting:
        raise UserError(
            "--finetune: nothing in the checkpoint fits the model, is it a DETR checkpoint?"
        )
    model.load_state_dict(fitting, strict=False)
    return report


def _fit(key: str, mine: Tensor, given: Tensor | None, report: FinetuneReport) -> Tensor | None:
    """The tensor to load under ``key``, noted in ``report``; None to keep what the model has."""
    if given is None:
        if not _is_counter(key):
            report.missing.append(key)
        return None
    if given.shape == mine.shape:
        report.loaded.append(key)
        return given
    if key.endswith("query_embed.weight") and given.shape[1:] == mine.shape[1:]:
        rows = min(len(given), len(mine))
        counts = f"{len(given)} in the file, {len(mine)} in the model"
        report.resized.append(f"{key} ({rows} rows, {counts})")
        return torch.cat([given[:rows].to(mine), mine[rows:]])
    report.skipped.append(_shape_difference(key, mine, given))
    return None


def without_ddp_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without the ``module.`` that DistributedDataParallel puts before every key."""
    wrapped = bool(state) and all(key.startswith("module.") for key in state)
    return {key.removeprefix("module.") if wrapped else key: v for key, v in state.items()}


def _has_detector_inside(state: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of a segmentation model, whose detector is its part ``detr``."""
    return any(key.startswith(DETECTOR_PREFIX) for key in state)


def _wrapped_as(own: Mapping[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with the detector's keys as in the state dict ``own``: inside or at the top."""
    if _has_detector_inside(own) == _has_detector_inside(state):
        return state
    if _has_detector_inside(own):
        return {DETECTOR_PREFIX + key: value for key, value in state.items()}
    return {key.removeprefix(DETECTOR_PREFIX): value for key, value in state.items()}


def _is_counter(key: str) -> bool:
    """Batch counters come and go with the kind of batch norm and matter to nobody."""
    return key.endswith(".num_batches_tracked")


def _differences(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """In words: shapes that differ, then keys that only one side has."""
    common = [key for key in own if key in state]
    shapes = [
        _shape_difference(key, own[key], state[key])
        for key in common
        if own[key].shape != state[key].shape
    ]
    missing = [f"{key} is not in the file" for key in own if key not in state]
    extra = [key for key in state if key not in own and not _is_counter(key)]
    return shapes + missing + [f"{key} is in the file only" for key in extra]


def _shape_difference(key: str, mine: Tensor, given: Tensor) -> str:
    return f"{key} is {tuple(given.shape)} in the file and {tuple(mine.shape)} in the model"


def _first_of(entries: Sequence[str], limit: int) -> str:
    more = f", and {len(entries) - limit} more" if len(entries) > limit else ""
    return ", ".join(entries[:limit]) + more


def _fitting_flags(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """The flags, with their values, that would give a model with the weights of ``state``."""
    mine, wanted = architecture_flags(own), architecture_flags(state)
    flags = [f"{flag} {wanted[flag]}" for flag in wanted if wanted[flag] != mine.get(flag)]
    for flag, marker in _SWITCHES:
        has, needs = (any(key.endswith(marker) for key in side) for side in (own, state))
        if has != needs:
            flags.append(flag if needs else f"no {flag}")
    if _backbone_shapes(own) != _backbone_shapes(state):
        flags.append("another --backbone")
    return flags


def architecture_flags(state: Mapping[str, Tensor]) -> dict[str, int | str]:
    """Flag of main.py (``--num_queries``) -> value, as far as the shapes of a state dict tell."""
    parts = {key.removeprefix(DETECTOR_PREFIX): value for key, value in state.items()}
    found: dict[str, int | str] = {}
    for flag, key, offset in (
        ("--num_classes", "class_embed.bias", -1),  # the last logit is the no-object class
        ("--num_queries", "query_embed.weight", 0),
        ("--hidden_dim", "input_proj.bias", 0),
        ("--dim_feedforward", "transformer.decoder.layers.0.linear1.bias", 0),
    ):
        if key in parts:
            found[flag] = len(parts[key]) + offset
    for flag, stack in (("--enc_layers", "encoder"), ("--dec_layers", "decoder")):
        layers = {k.split(".")[3] for k in parts if k.startswith(f"transformer.{stack}.layers.")}
        found[flag] = len(layers)
    learned = "backbone.1.row_embed.weight" in parts
    found["--position_embedding"] = "learned" if learned else "sine"
    return found


def has_backbone_of(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether weights hold the whole backbone of a model, and no other layers of one."""
    return _backbone_shapes(model.state_dict()) == _backbone_shapes(state)


def _backbone_shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    parts = {key.removeprefix(DETECTOR_PREFIX): value for key, value in state.items()}
    body = {k: v for k, v in parts.items() if k.startswith("backbone.0.body.")}
    return {k: v.shape for k, v in body.items() if not _is_counter(k)}

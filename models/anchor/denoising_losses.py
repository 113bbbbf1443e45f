"""Losses of denoising queries: each query is matched to its source object."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.fast.batched_losses import DecoderLayers
from models.matcher import Indices

_SUFFIX = "_dn"


class MatchedBatch(NamedTuple):
    """All denoising queries of a batch as the queries of one image, with their matched pairs.

    Attributes:
        layers: ``pred_logits`` (1, P, K) and ``pred_boxes`` (1, P, 4) of each layer, last first.
        stacked: ``layers`` for the batched losses, see `DecoderLayers.stack`.
        targets: one target, with all N objects of the batch.
        indices: the matched pairs of each layer.
        num_boxes: divisor of the losses: divisor for ordinary queries, times the number of groups.
    """

    layers: list[dict[str, Tensor]]
    stacked: DecoderLayers | None
    targets: list[dict[str, Tensor]]
    indices: list[Indices]
    num_boxes: Tensor | float

    @property
    def has_objects(self) -> bool:
        """Whether the batch has objects."""
        return len(self.targets[0]["labels"]) > 0


def matched_batch(
    denoised: Mapping[str, Tensor], targets: Sequence[Mapping[str, Any]], num_boxes: Tensor | float
) -> MatchedBatch:
    """Arrange denoising queries for the losses of a criterion.

    Args:
        denoised: ``pred_logits`` (L, P, K) and ``pred_boxes`` (L, P, 4), first decoder layer first,
            for P = groups * N noised objects, see `models.anchor.denoising.DenoisingQueries`.
        targets: ``labels`` (n,) and ``boxes`` (n, 4) cxcywh of each image.
        num_boxes: divisor of the losses of ordinary queries.
    """
    joined = {name: torch.cat([target[name] for target in targets]) for name in ("labels", "boxes")}
    logits, boxes = denoised["pred_logits"], denoised["pred_boxes"]
    layers = [
        {"pred_logits": layer_logits[None], "pred_boxes": layer_boxes[None]}
        for layer_logits, layer_boxes in zip(logits, boxes, strict=True)
    ]
    layers = [layers[-1], *layers[:-1]]
    num_queries, num_objects = logits.shape[1], len(joined["labels"])
    pairs = torch.arange(num_queries), torch.arange(num_queries) % max(num_objects, 1)
    num_groups = num_queries // max(num_objects, 1)
    return MatchedBatch(
        layers,
        DecoderLayers.stack(layers, [joined]),
        [joined],
        [[pairs]] * len(layers),
        num_boxes * max(num_groups, 1),
    )


def denoising_losses(losses: Mapping[str, Tensor], has_objects: bool) -> dict[str, Tensor]:
    """Losses by name, as ``loss_ce_dn``, ``loss_ce_dn_0``, …; zeros if the batch has no objects."""
    return {
        denoising_name(name): value if has_objects else torch.zeros_like(value)
        for name, value in losses.items()
        if name.startswith("loss_")
    }


def denoising_name(name: str) -> str:
    """Name of a loss for denoising queries.

    >>> denoising_name("loss_ce"), denoising_name("loss_ce_0")
    ('loss_ce_dn', 'loss_ce_dn_0')
    """
    base, _, layer = name.rpartition("_")
    return f"{base}{_SUFFIX}_{layer}" if layer.isdigit() else name + _SUFFIX

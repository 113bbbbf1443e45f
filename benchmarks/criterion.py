"""Matching and losses, forward and backward, of random predictions of six decoder layers."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.inputs import targets
from benchmarks.original import criterion as original
from models.criterion import SetCriterion
from models.fast.batched_losses import DecoderLayers
from models.matcher import HungarianMatcher, match_layers

TITLE = "Matching and losses"
_NUM_LAYERS, _NUM_CLASSES = 6, 91


def cases(settings: Settings) -> Iterator[Case]:
    """Batches of 16 images with about seven objects each, and the matcher alone."""
    batch_size, num_queries = (2, 10) if settings.quick else (16, 100)
    yield case(batch_size, num_queries, None, settings.device, rounds=60)
    outputs = _as_outputs(*_predictions(batch_size, num_queries, settings.device))
    objects = targets(batch_size, device=settings.device)
    layers = [outputs, *outputs["aux_outputs"]]
    matcher = HungarianMatcher(*original.MATCHING_WEIGHTS)
    yield Case(
        f"matcher alone, {batch_size} images, {num_queries} queries",
        {
            "original": lambda: [
                original.match(layer, objects, original.MATCHING_WEIGHTS) for layer in layers
            ],
            "this project": lambda: match_layers(
                matcher, layers, objects, DecoderLayers.stack(layers, objects)
            ),
        },
        rounds=30,
    )


def case(
    batch_size: int, num_queries: int, num_objects: int | None, device: str, rounds: int
) -> Case:
    """Losses and gradients of a batch; ``num_objects`` per image, None: 4 to 10."""
    logits, boxes = _predictions(batch_size, num_queries, device)
    objects = targets(batch_size, num_objects, device=device)
    matcher = HungarianMatcher(*original.MATCHING_WEIGHTS)
    criterion = SetCriterion(_NUM_CLASSES, matcher, {}, 0.1, ["labels", "boxes", "cardinality"]).to(
        device
    )

    def step(losses: Callable[[dict[str, Any]], dict[str, Tensor]]) -> list[Tensor]:
        """Return all losses by sorted name, then the gradients of logits and boxes."""
        named = losses(_as_outputs(logits, boxes))
        gradients = torch.autograd.grad(original.weighted_sum(named), (logits, boxes))
        return [*(named[key].detach() for key in sorted(named)), *gradients]

    def originally(outputs: dict[str, Any]) -> dict[str, Tensor]:
        """Compute the losses as the original does, one decoder layer after the other."""
        weights = original.MATCHING_WEIGHTS
        return original.losses(outputs, objects, weights, criterion.empty_weight)

    return Case(
        f"{batch_size} images, {num_queries} queries, {num_objects or '4 to 10'} objects per image",
        {
            "original": lambda: step(originally),
            "this project": lambda: step(lambda outputs: criterion(outputs, objects)),
        },
        rounds,
        tolerance=1e-5,
    )


def _predictions(batch_size: int, num_queries: int, device: str) -> tuple[Tensor, Tensor]:
    """Random logits (L, B, Q, K) and boxes (L, B, Q, 4), cxcywh."""
    generator = torch.Generator().manual_seed(0)
    shape = (_NUM_LAYERS, batch_size, num_queries)
    logits = torch.randn(*shape, _NUM_CLASSES + 1, generator=generator).to(device)
    boxes = torch.rand(*shape, 4, generator=generator).mul(0.8).add(0.1).to(device)
    return logits.requires_grad_(), boxes.requires_grad_()


def _as_outputs(logits: Tensor, boxes: Tensor) -> dict[str, Any]:
    """Predictions in the format of the model's outputs."""
    layers = [{"pred_logits": c, "pred_boxes": b} for c, b in zip(logits, boxes, strict=True)]
    return {**layers[-1], "aux_outputs": layers[:-1]}

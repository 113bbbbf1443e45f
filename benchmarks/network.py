"""Backbone and transformer alone, forward, and forward and backward; the original's in float32."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.case import Case, Settings, gradient_difference
from benchmarks.harness.inputs import R50, TINY, build, images
from benchmarks.original.detector import original_of
from training.network import prepare_for_training

TITLE = "Backbone and transformer"


def cases(settings: Settings) -> Iterator[Case]:
    """Both parts of a detector, in evaluation and in training."""
    size = (64, 96) if settings.quick else (608, 800)
    batch_size, rounds = (1, 1) if settings.quick else (2, 5)
    flags = TINY if settings.quick else R50
    model: Any = build(f"{flags} --dropout 0 --no_aux_loss")[0].train().to(settings.device)
    original: Any = original_of(model)
    prepare_for_training(model, "off")
    batch = images([size] * batch_size, settings.device)
    with torch.no_grad():
        features, positions = model.backbone(batch)
        encoded = (model.input_proj(features[-1].tensors), features[-1].mask, positions[-1])
    described = f"{batch_size} x 3 x {size[0]} x {size[1]}"

    def backbone(network: Any) -> Callable[[], Tensor]:
        """Build a forward pass of the backbone; it returns the last feature map."""
        return lambda: network.backbone(batch)[0][-1].tensors

    def transformer(network: Any) -> Callable[[], Tensor]:
        """Build a forward pass of the transformer; it returns the decoder outputs."""
        source, mask, position = encoded
        queries = network.query_embed.weight
        return lambda: network.transformer(source, mask, queries, position)[0]

    for name, part in (("backbone", backbone), ("transformer", transformer)):
        forward = {"original": part(original), "float32": part(model)}
        yield Case(
            f"{name}, {described}, forward",
            {variant: torch.no_grad()(run) for variant, run in forward.items()},
            rounds,
        )
        networks = {"original": original, "float32": model}
        yield Case(
            f"{name}, {described}, forward and backward",
            {variant: _with_backward(run, networks[variant]) for variant, run in forward.items()},
            rounds,
            tolerance=0.02,
            compare=gradient_difference,
        )


def _with_backward(run: Callable[[], Tensor], network: Any) -> Callable[[], list[Tensor]]:
    """A function that returns the gradients of the trained parameters behind an output."""

    def step() -> list[Tensor]:
        """Return the gradients, sorted by parameter name."""
        network.zero_grad()
        run().square().mean().backward()
        named = sorted(network.named_parameters())
        return [parameter.grad for _, parameter in named if parameter.grad is not None]

    return step

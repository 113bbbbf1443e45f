"""What a step tells: its losses with their weights, averaged over batches and processes."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from util.distributed.processes import reduce_dict
from util.transfer import to_device


def weigh(
    losses: Mapping[str, Tensor],
    weights: Mapping[str, float],
    targets: Sequence[Mapping[str, Tensor]],
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss to minimise, and what a log says of a step: all its parts with and without weight.

    Weights are applied to all parts at once: a few dozen scalar products would cost more than them.
    """
    names = [name for name in losses if name in weights]
    parts = torch.stack([losses[name] for name in names])
    factors = torch.tensor([weights[name] for name in names], dtype=parts.dtype)
    weighted = parts * to_device(factors, parts.device)
    loss = weighted.sum()
    log = {"loss": loss.detach(), **dict(zip(names, weighted.detach(), strict=True))}
    unscaled = {name: value.detach() for name, value in losses.items()}
    if "class_error" in unscaled and not any(len(target["labels"]) for target in targets):
        unscaled["class_error"] = torch.full_like(
            unscaled["class_error"], math.nan
        )  # no observation
    if "class_error" in unscaled:
        log["class_error"] = unscaled["class_error"]
    log.update({f"{name}_unscaled": value for name, value in unscaled.items()})
    return loss, log


def reduce_logs(
    logs: Sequence[dict[str, Tensor]], norm: Tensor, wants_to_stop: bool
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The logs averaged over all processes, and whether the step of any is bad or wants to stop.

    What a batch could not observe (NaN) stays out of the average. A bad step is left out, of the
    averages too: its values are NaN.

    Args:
        logs: of the batches of this process.
        norm: of the gradient; where it is not finite the step is bad.
        wants_to_stop: whether this process does.
    """
    values = torch.stack([torch.stack(list(log.values())) for log in logs])  # (batches, names)
    finite = norm + torch.stack([log["loss"] for log in logs]).sum()
    bad = (~finite.isfinite()).to(values.dtype)
    missing = values.isnan()
    sums = reduce_dict(
        {
            "value": values.masked_fill(missing, 0).sum(0),
            "count": (~missing).sum(0).to(values.dtype),
            "bad": bad.expand(values.shape[1]),
            "stop": torch.full_like(values[0], float(wants_to_stop)),
        },
        average=False,
    )
    bad, stop = sums["bad"][0] > 0, sums["stop"][0] > 0
    averages = (sums["value"] / sums["count"]).masked_fill(bad, math.nan)
    return dict(zip(logs[0], averages, strict=True)), bad, stop

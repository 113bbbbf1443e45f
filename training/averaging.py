"""Exponential moving average (EMA) of the weights of a model."""

import copy

import torch
from torch import Tensor, nn


class AveragedModel:
    """Averaged copy of a model: ``average = decay * average + (1 - decay) * weights``.

    Running statistics of batch norms are averaged too. `torch.optim.swa_utils.AveragedModel`
    computes the same averages, but synchronizes host and device in every update.

    Args:
        model: the model, on its device.
        decay: above 0 and below 1; 0.9998 averages over about 5000 steps.

    Attributes:
        module: copy of the model with EMA weights, without gradients.
        num_updates: number of updates so far. The first update copies the weights.

    Source: Polyak and Juditsky, 1992; exponential form: Tarvainen and Valpola, 2017.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.num_updates = 0
        self._decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Update the averages after an optimizer step, without synchronizing host and device."""
        pairs = list(zip(_tensors_of(self.module), _tensors_of(model), strict=True))
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        if self.num_updates == 0:
            for average, weight in pairs:
                average.copy_(weight)
        else:
            averages, weights = ([pair[side] for pair in floating] for side in (0, 1))
            torch._foreach_lerp_(averages, weights, 1 - self._decay)  # one kernel for many
            for average, weight in pairs:
                if not average.is_floating_point():  # batch counters of batch norms
                    average.copy_(average * self._decay + weight * (1 - self._decay))
        self.num_updates += 1


def _tensors_of(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]

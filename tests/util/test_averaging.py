"""Averaged weights follow the formula, moving statistics included."""

import torch
from torch import nn

from util.averaging import average_of


def test_follows_the_formula():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    averaged = average_of(model, 0.75)
    wanted = None
    for step in range(3):
        with torch.no_grad():
            model[0].weight.fill_(float(step))
            model[1].running_mean.fill_(10.0 * step)
        averaged.update_parameters(model)
        wanted = float(step) if wanted is None else 0.75 * wanted + 0.25 * step
    assert torch.allclose(averaged.module[0].weight, torch.full((2, 2), wanted))
    assert torch.allclose(averaged.module[1].running_mean, torch.full((2,), 10 * wanted))
    assert not any(parameter.requires_grad for parameter in averaged.parameters())

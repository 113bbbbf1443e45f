"""training/averaging.py: EMA weights follow the formula, running statistics included."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel as TorchAveragedModel
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from training.averaging import AveragedModel


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))


def change(model, step):
    """New weights, statistics and batch counters."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator))
            else:
                tensor.fill_(10 * step)


def test_follows_the_formula():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    averaged = AveragedModel(model, 0.75)
    wanted = None
    for step in range(3):
        with torch.no_grad():
            model[0].weight.fill_(float(step))
            model[1].running_mean.fill_(10.0 * step)
        averaged.update_parameters(model)
        wanted = float(step) if wanted is None else 0.75 * wanted + 0.25 * step
    assert torch.allclose(averaged.module[0].weight, torch.full((2, 2), wanted))
    assert torch.allclose(averaged.module[1].running_mean, torch.full((2,), 10 * wanted))
    assert not any(parameter.requires_grad for parameter in averaged.module.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("decay", [0.9998, 0.5])  # counters of batches move with 0.5 alone
def test_has_the_bits_of_the_average_of_pytorch(decay):
    model = build()
    own = AveragedModel(model, decay)
    other = TorchAveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    for step in range(4):
        change(model, step)
        own.update_parameters(model)
        other.update_parameters(model)
        found, wanted = own.module.state_dict(), other.module.state_dict()
        assert list(found) == list(wanted)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), step


def test_an_average_that_is_restored_goes_on():
    model = build()
    own = AveragedModel(model, 0.9)
    for step in range(2):
        change(model, step)
        own.update_parameters(model)
    restored = AveragedModel(model, 0.9)
    restored.module.load_state_dict(copy.deepcopy(own.module.state_dict()))
    restored.num_updates = own.num_updates
    change(model, 2)
    for averaged in (own, restored):
        averaged.update_parameters(model)
    found, wanted = restored.module.state_dict(), own.module.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("kind", [AveragedModel, TorchAveragedModel])
def test_nothing_is_copied_from_one_device_to_another(kind):
    """On the meta device, whose values cannot be read: reading one is what a GPU would wait for."""
    model = build().to("meta")
    if kind is AveragedModel:
        averaged = AveragedModel(model, 0.9)
        averaged.num_updates = 1
    else:
        averaged = TorchAveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        averaged.n_averaged.fill_(1)
    with Copies() as copies:
        averaged.update_parameters(model)
    assert copies.between_devices == (0 if kind is AveragedModel else 1)


class Copies(TorchDispatchMode):
    """Counts operations with tensors of two devices."""

    between_devices = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = (x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor))
        self.between_devices += len({tensor.device for tensor in tensors}) > 1
        return result

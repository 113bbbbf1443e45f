"""Frozen batch norms: values, precision, state dict, programs."""

import copy

import pytest
import torch
from torch import nn

from models.frozen_norm import FrozenBatchNorm2d


def test_a_new_frozen_batch_norm_equals_a_new_batch_norm():
    fresh, plain = FrozenBatchNorm2d(3), torch.nn.BatchNorm2d(3).state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in fresh.state_dict().items())
    assert list(fresh.state_dict()) == ["weight", "bias", "running_mean", "running_var"]


def test_frozen_batch_norm_equals_batch_norm_in_evaluation():
    reference = nn.BatchNorm2d(5).double().eval()
    for tensor in (*reference.parameters(), reference.running_mean, reference.running_var):
        tensor.data.uniform_(0.5, 1.5)
    frozen = FrozenBatchNorm2d(5).double().train()
    frozen.load_state_dict(reference.state_dict())  # its num_batches_tracked is dropped
    x = torch.randn(2, 5, 3, 4).double()
    assert torch.allclose(frozen(x), reference(x))
    assert not list(frozen.parameters())
    assert list(frozen.state_dict()) == ["weight", "bias", "running_mean", "running_var"]


def test_frozen_batch_norm_keeps_low_precision():
    assert FrozenBatchNorm2d(5)(torch.ones(1, 5, 2, 2).bfloat16()).dtype == torch.bfloat16


def random_norms(channels):
    """A frozen norm with random buffers, and the same in float64."""
    torch.manual_seed(0)
    frozen = FrozenBatchNorm2d(channels)
    for name in ("weight", "running_var"):
        getattr(frozen, name).uniform_(0.5, 1.5)
    for name in ("bias", "running_mean"):
        getattr(frozen, name).normal_()
    return frozen, copy.deepcopy(frozen).double()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_frozen_batch_norm_rounds_once_in_low_precision(dtype, memory_format):
    frozen, exact = random_norms(7)
    x = torch.randn(2, 7, 5, 6).to(dtype).contiguous(memory_format=memory_format).requires_grad_()
    x64 = x.detach().double().requires_grad_()
    y, y64 = frozen(x), exact(x64)
    grad = torch.randn_like(x)
    y.backward(grad)
    y64.backward(grad.double())
    for found, expected in ((y, y64), (x.grad, x64.grad)):
        assert found.dtype == dtype and found.is_contiguous(memory_format=memory_format)
        # Half a unit in the last place, and the rounding of float32 where terms cancel.
        assert (
            (found.double() - expected).abs()
            <= 0.505 * torch.finfo(dtype).eps * expected.abs() + 2e-6
        ).all()


def test_frozen_batch_norm_keeps_float32_bits():
    frozen, _ = random_norms(7)
    x = torch.randn(2, 7, 5, 6)
    scale = frozen.weight * (frozen.running_var + frozen.eps).rsqrt()
    shift = frozen.bias - frozen.running_mean * scale
    assert torch.equal(frozen(x), x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1))


def test_frozen_batch_norm_saves_no_feature_map_for_backward():
    saved = []
    x = torch.ones(1, 5, 40, 40, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, id):
        FrozenBatchNorm2d(5)(x)
    assert sum(saved) <= 10


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_frozen_batch_norm_in_low_precision_scripts_traces_and_exports():
    frozen, _ = random_norms(5)
    x = torch.randn(2, 5, 3, 4).bfloat16().requires_grad_()
    programs = [torch.jit.script(frozen), torch.jit.trace(frozen, x)]
    programs.append(torch.export.export(frozen, (x,)).module())
    for program in programs:
        assert torch.equal(program(x), frozen(x))

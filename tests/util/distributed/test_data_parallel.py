"""Models with and without DistributedDataParallel; with two processes: tests/distributed."""

import contextlib

import pytest
from torch import nn

from util.distributed.data_parallel import gradient_sync, without_ddp


@pytest.mark.parametrize("enabled", [True, False])
def test_a_plain_model_has_no_gradients_to_synchronize(enabled):
    assert isinstance(gradient_sync(nn.Linear(1, 1), enabled), contextlib.nullcontext)


def test_a_plain_model_is_returned_as_it_is():
    model = nn.BatchNorm2d(1)
    assert without_ddp(model) is model

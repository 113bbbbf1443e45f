"""What PyTorch says of a dead worker becomes a cause and a remedy."""

import os
import signal

import pytest
import torch

from datasets.loading.loaders import TrainLoader
from training.stopping import explain_worker_fault


class Dying(torch.utils.data.Dataset):
    """A dataset whose worker gets a signal."""

    def __init__(self, signum):
        self.signum = signum

    def __len__(self):
        return 4

    def __getitem__(self, index):
        os.kill(os.getpid(), self.signum)
        return torch.zeros(3, 2, 2), {}


@pytest.mark.parametrize(
    ("signum", "remedy"),
    [
        (signal.SIGKILL, "memory ran out"),
        (signal.SIGBUS, "/dev/shm"),
        (signal.SIGSEGV, "datasets.check"),
    ],
)
def test_real_deaths(signum, remedy):
    loader = TrainLoader(Dying(signum), 2, 1, pin_memory=False, seed=0)
    with pytest.raises(RuntimeError) as error:
        next(iter(loader))
    explanation = explain_worker_fault(error.value)
    assert explanation is not None and remedy in explanation and "\n" not in explanation


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("unable to write to file </torch_123_456>: No space left on device (28)", "/dev/shm"),
        ("received 0 items of ancdata", "ulimit -n"),
        ("Too many open files. Communication with the workers is no longer possible", "ulimit"),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "--num_workers 0"),
    ],
)
def test_what_pytorch_says(text, remedy):
    assert remedy in explain_worker_fault(RuntimeError(text))


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("DataLoader worker")],
)
def test_other_errors_do_not_change(error):
    assert explain_worker_fault(error) is None

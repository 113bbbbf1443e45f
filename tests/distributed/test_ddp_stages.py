"""A backbone that is frozen at first, in two processes: equal to one process, and exact resume."""

import signal

import pytest
import torch

from tests.distributed.main_runs import MainRuns
from tests.distributed.processes import run_connected
from tests.drawn_data import drawn_data
from tests.test_main import read_checkpoint, read_log
from tests.test_main import run_simple as run
from tests.training.test_resume import assert_same_runs

# Of 13 images an epoch has 3 steps of 4 images with a frozen backbone, then 6 steps of 2.
STAGES = ["--epochs", "2", "--lr", "1e-2", "--lr_backbone", "10", "--optimizer", "sgd"]
STAGES += ["--freeze_backbone_epochs", "1", "--warmup_steps", "5", "--dropout", "0"]
STAGES += ["--lr_drop", "1"]
TWO = ["--freeze_batch_size", "2", "--batch_size", "1"]
BATCH_NORM = ["--backbone_norm", "batch", "--optimizer", "adamw", "--lr_scale_batch"]
BATCH_NORM += ["--lr_backbone", "1e-3"]

pytestmark = pytest.mark.distributed

data = drawn_data(num_train=13, num_val=3)


def run_all(data, folder):
    """The exit status of each run."""
    runs, flags = MainRuns(data, folder), [*STAGES, *TWO]
    runs.add("two", *flags)
    flags += BATCH_NORM
    runs.add("whole", *flags)
    for step in (2, 3):  # in the first stage, then in the second
        with runs.interrupted(step, signal.SIGTERM):
            runs.add("parts", *flags, "--auto_resume")
    runs.add("parts", *flags, "--auto_resume")
    return runs.statuses


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (statuses,) = run_connected(run_all, folder / "processes", 2, data=data, folder=folder)
    assert statuses == [[0, 0, 143, 143, 0]] * 2
    return folder


@pytest.fixture(scope="module")
def single(data, tmp_path_factory):
    """The first run in one process."""
    folder = tmp_path_factory.mktemp("single")
    assert run(data, *STAGES, *TWO, "--accum_steps", "2", "--output_dir", folder) == 0
    return folder


@pytest.mark.parametrize("name", ["checkpoint0000.pth", "checkpoint.pth"])
def test_two_processes_equal_one(runs, single, name):
    found, wanted = (read_checkpoint(folder / name) for folder in (runs / "two", single))
    assert found["step"] == wanted["step"]
    for key, value in wanted["model"].items():
        assert torch.allclose(found["model"][key], value, atol=1e-6), key
    rates = [[entry["train_lr"] for entry in read_log(folder)] for folder in (runs / "two", single)]
    assert rates[0] == pytest.approx(rates[1])


def test_the_backbone_moves_in_the_second_stage_alone(runs):
    first, last = (
        read_checkpoint(runs / "two" / name)["model"]
        for name in ("checkpoint0000.pth", "checkpoint.pth")
    )
    name = "backbone.0.body.layer4.0.conv1.weight"
    assert not torch.equal(first[name], last[name])


def test_stopped_in_both_stages_and_continued(runs):
    names = sorted(path.name for path in (runs / "whole").glob("checkpoint*.pth"))
    assert names == ["checkpoint.pth", "checkpoint0000.pth", "checkpoint0001.pth"]
    assert_same_runs(runs / "parts", runs / "whole")
    assert len(read_checkpoint(runs / "whole" / "checkpoint.pth")["rng"]) == 2

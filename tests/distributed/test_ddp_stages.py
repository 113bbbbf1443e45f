"""A backbone that is frozen at first, in two processes: equal to one process, and exact resume."""

import os
import signal

import pytest
import torch
import torch.distributed as dist

from datasets.shapes.directory import write_shapes
from tests.distributed.processes import run_connected
from tests.test_main import read_checkpoint, read_log, run
from tests.training.test_resume import assert_same_runs
from training import loop
from util.distributed.processes import get_rank

# Of 13 images an epoch has 3 steps of 4 images with a frozen backbone, then 6 steps of 2.
STAGES = ["--epochs", "2", "--lr", "1e-2", "--lr_backbone", "10", "--optimizer", "sgd"]
STAGES += ["--freeze_backbone_epochs", "1", "--warmup_steps", "5", "--dropout", "0"]
STAGES += ["--lr_drop", "1"]
TWO = ["--freeze_batch_size", "2", "--batch_size", "1"]
BATCH_NORM = ["--backbone_norm", "batch", "--optimizer", "adamw", "--lr_scale_batch"]
BATCH_NORM += ["--lr_backbone", "1e-3"]

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(root, num_train=13, num_val=3, image_size=64)
    return root


def run_all(data, folder):
    """The exit status of each run."""
    rank = get_rank()
    dist.destroy_process_group()  # each run connects for itself
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    statuses = []

    def together(name, *flags):
        rendezvous = f"file://{folder}/rendezvous{len(statuses)}"
        flags = [*STAGES, *TWO, *flags, "--output_dir", folder / name, "--dist_url", rendezvous]
        statuses.append(run(data, *flags))
        if dist.is_initialized():
            dist.destroy_process_group()

    together("two")
    together("whole", *BATCH_NORM)
    for call in (2, 3):  # in the first stage, then in the second
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, rank, call)
            together("parts", *BATCH_NORM, "--auto_resume")
    together("parts", *BATCH_NORM, "--auto_resume")
    return statuses


def interrupt(patch, rank, call):
    """Send a signal to the second process in its n-th step."""
    original, calls = loop.Run._after_step, []

    def interrupted(self, *args):
        calls.append(1)
        if rank == 1 and len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, *args)

    patch.setattr(loop.Run, "_after_step", interrupted)


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (statuses,) = run_connected(run_all, folder / "processes", 2, data=data, folder=folder)
    assert statuses == [[0, 0, 143, 143, 0]] * 2
    return folder


@pytest.mark.parametrize("name", ["checkpoint0000.pth", "checkpoint.pth"])
def test_two_processes_equal_one(runs, data, tmp_path, name):
    one = [*STAGES, *TWO, "--accum_steps", "2"]
    assert run(data, *one, "--output_dir", tmp_path) == 0
    found, wanted = (read_checkpoint(folder / name) for folder in (runs / "two", tmp_path))
    assert found["step"] == wanted["step"]
    for key, value in wanted["model"].items():
        assert torch.allclose(found["model"][key], value, atol=1e-6), key
    rates = [
        [entry["train_lr"] for entry in read_log(folder)] for folder in (runs / "two", tmp_path)
    ]
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

"""Runs of two processes from the command line: both stages of segmentation, exact resume.

One training image cannot be read.
"""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from datasets.shapes.directory import write_shapes
from tests.distributed.main_runs import MainRuns
from tests.distributed.processes import run_connected
from tests.programs import run_forked
from tests.test_main import ROOT, SIMPLE, read_checkpoint, read_log
from tests.test_main import run_simple as run
from tests.training.test_resume import assert_same_runs

# Three steps an epoch, of two images in each of two processes.
RUN = ["--epochs", "2", "--lr_drop", "2", "--lr", "1e-3", "--batch_size", "1", "--accum_steps", "2"]
RUN += ["--skip_bad_images", "1"]
PANOPTIC = ["--dataset_file", "shapes_panoptic", "--epochs", "1", "--batch_size", "1"]
PANOPTIC += ["--skip_bad_images", "1"]
MASKS = [*PANOPTIC, "--masks", "--panoptic_threshold", "0"]

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(root, num_train=13, num_val=3, image_size=64)
    sorted((root / "train2017").iterdir())[3].write_bytes(b"lost")
    return root


def run_all(data, folder):
    """The exit status of each run, in the order of the tests below."""
    runs = MainRuns(data, folder)
    runs.add("boxes", *PANOPTIC)
    runs.add("masks", *MASKS, "--frozen_weights", folder / "boxes" / "checkpoint.pth")
    runs.add("whole", *RUN)
    with runs.interrupted(2, signal.SIGUSR1):
        runs.add("parts", *RUN, "--auto_resume")
    runs.add("parts", *RUN, "--auto_resume")
    return runs.statuses


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (statuses,) = run_connected(run_all, folder / "processes", 2, data=data, folder=folder)
    assert statuses == [[0, 0, 0, 138, 0]] * 2
    return folder


def test_both_stages_of_segmentation(runs):
    (boxes,), (masks,) = read_log(runs / "boxes"), read_log(runs / "masks")
    assert len(boxes["test_coco_eval_bbox"]) == 12
    assert {"test_coco_eval_masks", "test_PQ_all", "train_loss_mask"} <= masks.keys()
    maps = sorted(path.name for path in (runs / "masks" / "panoptic_eval").glob("*.png"))
    assert maps == [f"{image_id:012d}.png" for image_id in (1, 2, 3)]
    before = read_checkpoint(runs / "boxes" / "checkpoint.pth")["model"]
    after = read_checkpoint(runs / "masks" / "checkpoint.pth")["model"]
    assert all(torch.equal(after[f"detr.{name}"], before[name]) for name in before)


def test_scores_are_those_of_a_single_process(runs, data, tmp_path):
    resume = ["--resume", runs / "masks" / "checkpoint.pth", "--output_dir", tmp_path]
    found = tmp_path / "found.json"
    assert run(data, *MASKS, *resume, "--eval", "--dump_detections", found) == 0
    single = torch.load(tmp_path / "eval.pth", weights_only=False)
    several = torch.load(runs / "masks" / "eval" / "latest.pth", weights_only=False)
    assert several["counts"] == single["counts"]
    assert torch.allclose(several["precision"], single["precision"], atol=1e-6)
    assert torch.allclose(several["recall"], single["recall"], atol=1e-6)


def test_stopped_by_a_signal_to_one_process_and_continued(runs):
    assert_same_runs(runs / "parts", runs / "whole")
    checkpoint = read_checkpoint(runs / "whole" / "checkpoint.pth")
    assert checkpoint["step"] == 6 and checkpoint["args"]["accum_steps"] == 2
    assert len(checkpoint["rng"]) == 2
    states = [own["random"]["torch"] for own in checkpoint["rng"]]
    assert not torch.equal(*states)  # dropout is not the same in all processes


def test_an_image_that_one_process_could_not_read_is_reported_by_all(runs):
    entries = read_log(runs / "whole")
    assert [len(entry["bad_images"]) for entry in entries] == [1, 1]
    progress = read_checkpoint(runs / "whole" / "checkpoint.pth")["progress"]
    assert "image id 100004" in progress["bad_images"][0]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_one_process_trains_and_evaluates_over_nccl(data, tmp_path, monkeypatch):
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    flags = [*RUN, "--device", "cuda", "--dist_url", f"file://{tmp_path}/rendezvous"]
    assert run(data, *flags, "--output_dir", tmp_path / "out") == 0
    checkpoint = read_checkpoint(tmp_path / "out" / "checkpoint.pth")
    assert checkpoint["args"]["dist_backend"] == "nccl"
    assert len(read_log(tmp_path / "out")[-1]["test_coco_eval_bbox"]) == 12


@pytest.mark.slow
def test_torchrun(data, tmp_path):
    assert run(data, "--output_dir", tmp_path / "boxes", *PANOPTIC) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", Path(__file__).with_name("narrow_main.py"), *SIMPLE]
    command += ["--coco_path", data, "--output_dir", tmp_path / "masks"]
    command += [*MASKS, "--frozen_weights", tmp_path / "boxes" / "checkpoint.pth"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ended = run_forked(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    (entry,) = read_log(tmp_path / "masks")
    assert {"test_coco_eval_masks", "test_PQ_all", "train_loss_mask"} <= entry.keys()

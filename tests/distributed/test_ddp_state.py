"""Two processes of main.py have the same state: model, averages, criterion, optimizer, things."""

import contextlib
import copy
import io
import os

import pytest
import torch
import torch.distributed as dist
import torchvision

from datasets.shapes.directory import write_shapes
from models import backbone
from tests.distributed.processes import run_connected
from tests.narrow_resnet import SHALLOW
from tests.test_main import read_checkpoint
from tests.test_main import run_simple as run
from training import loop
from util.distributed.processes import get_rank

PANOPTIC = ["--dataset_file", "shapes_panoptic", "--batch_size", "1", "--epochs", "1"]
BOXES = [*PANOPTIC, "--backbone_weights", "imagenet", "--ema_decay", "0.9"]
MASKS = [*BOXES, "--masks", "--panoptic_threshold", "0"]
STARTS = {
    "frozen": MASKS,
    "batch": [*MASKS, "--backbone_norm", "batch"],
    "finetuned": [*BOXES, "--finetune", "{own}.pth"],
    # New rows of queries and classes are random, with another seed on each rank.
    "adapted": [*BOXES, "--finetune", "{own}.pth", "--num_queries", "9", "--num_classes", "260"],
    "frozen weights": [*MASKS, "--frozen_weights", "{own}.pth"],
}

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights for the backbone, and data, of which the second lacks an image."""
    folder = tmp_path_factory.mktemp("state")
    torch.manual_seed(3)
    state = torchvision.models.get_model(SHALLOW, weights=None).state_dict()
    for name, tensor in state.items():
        if "running" in name or "bn" in name:  # those of a new layer are zeros and ones
            state[name] = torch.rand(tensor.shape).to(tensor.dtype) + 0.5
    torch.save(state, folder / "imagenet.pth")
    for name, num_train in (("data", 5), ("other data", 6)):
        write_shapes(folder / name, num_train=num_train, num_val=3, image_size=64)
    return folder


class WatchedRun(loop.Run):
    """Keeps its state of the beginning and of the end."""

    kept: list = []  # noqa: RUF012  # of all runs of a process

    def train(self):
        self.kept.append(state_of(self))
        super().train()
        self.kept.append(state_of(self))


def state_of(run):
    panoptic = run.evaluation.postprocessors.get("panoptic")
    state = {
        "model": run.training.model.state_dict(),
        "ema": run.training.averaged.module.state_dict(),
        "criterion": run.criterion.state_dict(),
        "optimizer": run.training.optimizer.state_dict(),
        "schedule": run.training.lr_scheduler.state_dict(),
        "things": None if panoptic is None else panoptic.is_thing_map,
        "classes": run.flags["num_classes"],
        "scores": run.progress.scores,
    }
    return copy.deepcopy(state)


def run_all(folder):
    """Of each run by name: its status, its states, and what it wrote to stderr."""
    rank = get_rank()
    dist.destroy_process_group()  # each run connects for itself
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    loop.Run = WatchedRun
    seen = {}

    def together(name, *flags, data="data"):
        url = f"file://{folder}/rendezvous{len(seen)}"
        WatchedRun.kept = []
        with contextlib.redirect_stderr(io.StringIO()) as error:
            status = run(folder / data, *flags, "--dist_url", url)
        seen[name] = status, WatchedRun.kept, error.getvalue()
        if dist.is_initialized():
            dist.destroy_process_group()

    if rank:
        torch.hub.download_url_to_file = forbidden
    weights = torch.load(folder / "imagenet.pth")
    backbone._fetch_imagenet_weights = forbidden if rank else lambda name: weights
    own = folder / f"rank{rank}"
    together("first", *BOXES, "--output_dir", folder / "first", "--seed", "7")
    make_own_files(folder / "first" / "checkpoint.pth", own)
    for name, flags in STARTS.items():
        flags = [str(flag).format(own=own) for flag in flags]
        together(name, *flags, "--output_dir", folder / name.replace(" ", "_"))
    resume = [*BOXES, "--epochs", "2", "--resume"]
    first = folder / "first" / "checkpoint.pth"
    # Of rank 1 the results lie elsewhere: it must not wait for scores where rank 0 sends none.
    elsewhere = folder / ("elsewhere" if rank else "first")
    together("resumed", *resume, first, "--output_dir", elsewhere)
    together("other checkpoint", *resume, f"{own}.pth")
    together("other flags", *BOXES, "--lr", 1e-3 if rank else 1e-4)
    together("other data", *BOXES, data="other data" if rank else "data")
    return seen


def forbidden(*args, **kwargs):
    raise AssertionError("rank 1 downloads")


def make_own_files(source, own):
    """A copy of a checkpoint with other weights in each rank."""
    checkpoint = read_checkpoint(source)
    torch.manual_seed(os.getpid())
    for name, tensor in checkpoint["model"].items():
        if tensor.is_floating_point():
            checkpoint["model"][name] = tensor + torch.rand_like(tensor) / 100
    torch.save(checkpoint, f"{own}.pth")


@pytest.fixture(scope="module")
def ranks(folder):
    (seen,) = run_connected(run_all, folder / "processes", 2, folder=folder)
    return seen


def differences(first, second, where=""):
    """Places in two nested states whose values differ."""
    if isinstance(first, dict):
        assert list(first) == list(second), where
        pairs = [(f"{where}.{key}", first[key], second[key]) for key in first]
        return [place for name, a, b in pairs for place in differences(a, b, name)]
    if isinstance(first, list | tuple):
        assert len(first) == len(second), where
        pairs = zip(first, second, strict=True)
        return [p for i, (a, b) in enumerate(pairs) for p in differences(a, b, f"{where}[{i}]")]
    same = torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second
    return [] if same else [where]


@pytest.mark.parametrize("name", ["first", *STARTS, "resumed"])
def test_both_ranks_have_the_same_state_at_the_beginning_and_at_the_end(ranks, name):
    (status, first, error), (other_status, second, other_error) = (seen[name] for seen in ranks)
    assert (status, other_status) == (0, 0), error + other_error
    assert len(first) == len(second) == 2
    assert differences(first, second) == []
    assert differences(first[0]["model"], first[1]["model"]) != []  # it has trained


@pytest.mark.parametrize("name", ["frozen", "batch"])
def test_all_ranks_start_from_the_imagenet_weights_of_rank_0(ranks, name):
    for _, (start, _), _ in (seen[name] for seen in ranks):
        for part in ("model", "ema"):
            statistics = start[part]["detr.backbone.0.body.layer1.0.bn1.running_mean"]
            assert (statistics >= 0.5).all(), part
        assert start["things"] is not None


@pytest.mark.parametrize(("name", "prefix"), [("finetuned", ""), ("frozen weights", "detr.")])
def test_of_files_that_differ_the_file_of_rank_0_counts(ranks, folder, name, prefix):
    own, other = (read_checkpoint(folder / f"rank{rank}.pth")["model"] for rank in (0, 1))
    assert differences(own, other) != []
    for _, (start, _), _ in (seen[name] for seen in ranks):
        assert all(torch.equal(start["model"][prefix + key], own[key]) for key in own)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other checkpoint", "different checkpoints (rank 0: epoch 0, step 2 (hash "),
        ("other flags", "--lr: 0.0001 on rank 0, 0.001 on rank 1; give every rank the same flags"),
        ("other data", "training data: 5 images (hash "),
    ],
)
def test_what_cannot_be_sent_is_refused_by_both(ranks, name, words):
    for status, states, error in (seen[name] for seen in ranks):
        (line,) = error.splitlines()
        assert (status, states) == (2, []) and line.startswith("main.py: error: "), line
        assert words in line

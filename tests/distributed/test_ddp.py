"""Several processes or several batches per step: the same updates as in one process."""

import copy
import functools
import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from engine import EpochContext, train_one_epoch
from tests.distributed.processes import run_connected
from tests.test_engine import CPU, batch, build
from training import network
from training.nonfinite import examine
from util.distributed.processes import get_rank, get_world_size
from util.optimizer import build_optimizer
from util.step_watch import StepWatch

# Objects of the batches; the third step has a share without any, the fifth nothing but such.
COUNTS = [2, 1, 3, 1, 0, 2, 1, 4, 0, 0, 3, 0, 1, 1, 2, 2, 0, 1, 5, 1]
NUM_STEPS = len(COUNTS) // 2
FEW = [0, 1, 0, 0]
# The backbone has nearly all parameters: it is trained where that matters.
SMALL = "--lr_backbone 0"
MAX_NORM = 0.1


def batches_of(counts, dtype, masks=False):
    """Batches of one image, some with objects."""
    batches = [batch(seed, counts=(count,), size=40) for seed, count in enumerate(counts)]
    for samples, (target,) in batches:
        samples.tensors = samples.tensors.to(dtype)
        target["boxes"] = target["boxes"].to(dtype)
        if masks:
            shape = (len(target["labels"]), *samples.tensors.shape[-2:])
            generator = torch.Generator().manual_seed(len(target["labels"]))
            target["masks"] = torch.rand(shape, generator=generator) > 0.5
    return batches


def build_parallel(dtype, flags, plain=False):
    """Model, the same as several processes train it, criterion and optimizer.

    A plain one, unlike Adam, tells gradients from their multiples.
    """
    model, criterion, _ = build(f"{SMALL} {flags}")
    model, criterion = model.to(dtype), criterion.to(dtype)
    optimizer: Any = build_optimizer(model, 1e-4, 1e-5, 1e-4)
    if plain:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    return model, network.distribute(model), criterion, optimizer


def train(dtype, accum_steps=1, flags="", counts=COUNTS, scaler=None, plain=False):
    """Losses of each step and the weights at the end, trained on this process's share."""
    model, parallel, criterion, optimizer = build_parallel(dtype, flags, plain)
    losses = []
    context = EpochContext(after_step=lambda _, log: losses.append(log.state_dict()))
    train_one_epoch(
        parallel,
        criterion,
        batches_of(counts, dtype, "--masks" in flags)[get_rank() :: get_world_size()],
        optimizer,
        CPU,
        0,
        0 if plain else MAX_NORM,
        accum_steps=accum_steps,
        scaler=scaler,
        context=context,
    )
    return losses, model.state_dict()


@functools.cache
def train_by_hand(dtype, plain=False):
    """One process computes the two shares one after the other, by the rule in the paper's words."""
    model, _, criterion, optimizer = build_parallel(dtype, "", plain)
    batches = batches_of(COUNTS, dtype)
    history = []
    for shares in zip(batches[::2], batches[1::2], strict=True):
        counts = [len(targets[0]["labels"]) for _, targets in shares]
        per_share = max(sum(counts) / 2, 1)
        optimizer.zero_grad()
        parts = []
        for (samples, targets), count in zip(shares, counts, strict=True):
            losses = criterion(model(samples), targets)
            for name in losses:
                if "bbox" in name or "giou" in name:  # were divided by the objects of this share
                    losses[name] = losses[name] * max(count, 1) / per_share
            (sum(losses[k] * w for k, w in criterion.weight_dict.items()) / 2).backward()
            parts.append(losses)
        if not plain:
            nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        history.append({k: float(sum(p[k].detach() for p in parts)) / 2 for k in parts[0]})
    return history, model.state_dict()


def assert_same_weights(found, wanted, tolerance):
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert torch.allclose(found[name], wanted[name], rtol=0, atol=tolerance), name


def assert_same_losses(found, wanted, tolerance):
    """Losses of each step are `train`'s and `train_by_hand`'s."""
    assert len(found) == len(wanted) == NUM_STEPS
    for meters, losses in zip(found, wanted, strict=True):
        for name in (name for name in losses if name != "class_error"):
            value = meters[f"{name}_unscaled"]["window"][-1]
            assert value == pytest.approx(losses[name], rel=tolerance, abs=tolerance), name


EXACT = {torch.float32: 1e-6, torch.float64: 1e-10}

# Whatever changes which parameters take part in a step.
UNUSED = [
    "--no_aux_loss",
    "--dec_layers 1",
    "--dec_layers 1 --no_aux_loss --enc_layers 0",
    "--pre_norm --position_embedding learned",
    "--backbone_norm batch --lr_backbone 1e-4",
    "--lr_backbone 1e-4",
    "--masks --lr_backbone 1e-4",
    "--masks --no_aux_loss",
    "--masks --frozen_weights some.pth",
    "--masks --frozen_weights some.pth --dec_layers 1 --backbone_norm batch --lr_backbone 1",
    "--query_design anchor --denoising 2",
    "--query_design anchor --cls_loss focal --denoising 2 --masks --dec_layers 1 --no_aux_loss",
]


def train_all() -> dict[str, Any]:
    results: dict[str, Any] = {str(dtype): train(dtype) for dtype in EXACT}
    results["plain"] = train(torch.float64, plain=True)[1]
    results["two by two"] = train(torch.float64, accum_steps=2)
    for flags in UNUSED:
        results[flags] = train(torch.float32, flags=flags, counts=FEW)[1]
    results["sends buffers"] = [
        build_parallel(torch.float32, flags)[1].broadcast_buffers
        for flags in ("", "--backbone_norm batch --lr_backbone 1")
    ]
    results["bad"] = train_a_bad_step()
    results["replay"] = losses_of_step_and_replay()
    results["sums"] = [sums_of_a_step(accum_steps) for accum_steps in (1, 3)]
    return results


def sums_of_a_step(accum_steps):
    """How many buckets of gradients one step adds up over the processes."""
    _, parallel, criterion, optimizer = build_parallel(torch.float32, "")
    calls = []

    def counted(group, bucket):
        calls.append(bucket.index())
        return allreduce_hook(group, bucket)

    parallel.register_comm_hook(None, counted)
    batches = batches_of([1] * accum_steps, torch.float32)
    train_one_epoch(parallel, criterion, batches, optimizer, CPU, 0, accum_steps=accum_steps)
    return len(calls)


def train_a_bad_step():
    """Steps of two batches; the last batch of the main process is broken."""
    model, parallel, criterion, optimizer = build_parallel(
        torch.float32, "--backbone_norm batch --lr_backbone 1"
    )
    batches = batches_of(COUNTS[:4], torch.float32)[get_rank() :: get_world_size()]
    told, states = [], [copy.deepcopy(model.state_dict())]
    watch = StepWatch(CPU, lambda records: told.append([r.image_ids() for r in records]))
    context = EpochContext(after_step=lambda *_: states.append(copy.deepcopy(model.state_dict())))
    if get_rank() == 0:
        batches[-1][0].tensors[:] = float("nan")
    train_one_epoch(
        *(parallel, criterion, batches, optimizer, CPU, 0),
        accum_steps=2,
        watch=watch,
        context=context,
    )
    changed = [
        any(not torch.equal(before[name], after[name]) for name in before)
        for before, after in itertools.pairwise(states)
    ]
    return told, changed


def losses_of_step_and_replay():
    """Losses of a bad step of two batches per process, then of its replay in this process alone."""
    model, parallel, criterion, optimizer = build_parallel(torch.float32, "")
    losses, records = [], []
    criterion.register_forward_hook(lambda *call: losses.append(call[-1]))
    model.query_embed.weight.register_hook(lambda gradient: gradient * float("nan"))
    train_one_epoch(
        *(parallel, criterion, batches_of([5, 2, 0, 1], torch.float32)[get_rank() :: 2]),
        *(optimizer, CPU, 0),
        accum_steps=2,
        watch=StepWatch(CPU, records.extend),
    )
    causes = [examine(model, criterion, record, "off") for record in records]
    return losses, causes, [float(record.num_boxes) for record in records]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two connected processes got from `train_all`."""
    (views,) = run_connected(train_all, tmp_path_factory.mktemp("two") / "run", 2)
    return views


@pytest.mark.distributed
@pytest.mark.parametrize("dtype", EXACT)
def test_two_processes_equal_the_rule_done_by_hand(two, dtype):
    history, wanted = train_by_hand(dtype)
    for losses, weights in (view[str(dtype)] for view in two):
        assert_same_losses(losses, history, EXACT[dtype])
        assert_same_weights(weights, wanted, EXACT[dtype])


@pytest.mark.distributed
def test_gradients_are_averaged_over_processes(two):
    _, wanted = train_by_hand(torch.float64, plain=True)
    for view in two:
        assert_same_weights(view["plain"], wanted, 1e-10)


def test_gradients_are_averaged_over_the_batches_of_a_step():
    _, wanted = train_by_hand(torch.float64, plain=True)
    _, weights = train(torch.float64, accum_steps=2, plain=True)
    assert_same_weights(weights, wanted, 1e-10)


@pytest.mark.parametrize("dtype", EXACT)
def test_accumulation_equals_the_rule_done_by_hand(dtype):
    history, wanted = train_by_hand(dtype)
    losses, weights = train(dtype, accum_steps=2)
    assert_same_losses(losses, history, EXACT[dtype])
    assert_same_weights(weights, wanted, EXACT[dtype])
    _, untrained = train(dtype, accum_steps=2, counts=[])
    assert any(not torch.allclose(weights[k], untrained[k], atol=1e-4) for k in weights)


def test_a_scaled_loss_gives_the_same_updates():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    _, weights = train(torch.float32, 2, counts=COUNTS[:4], scaler=scaler)
    assert_same_weights(weights, train(torch.float32, 2, counts=COUNTS[:4])[1], 1e-6)


@pytest.mark.distributed
def test_two_processes_with_two_batches_equal_one_with_four(two):
    losses, weights = train(torch.float64, accum_steps=4)
    for found, other in (view["two by two"] for view in two):
        assert [set(step) for step in found] == [set(step) for step in losses]
        for name, meter in losses[-1].items():
            assert found[-1][name]["total"] == pytest.approx(meter["total"], rel=1e-9)
        assert_same_weights(other, weights, 1e-10)


@pytest.mark.distributed
@pytest.mark.parametrize("flags", UNUSED)
def test_every_parameter_takes_part_with_and_without_objects(two, flags):
    first, second = (view[flags] for view in two)
    for name in first:
        if "batch" in flags and ("running" in name or "tracked" in name):
            continue  # each process has its own running statistics
        assert first[name].isfinite().all(), name
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("flags", [flags for flags in UNUSED if "batch" not in flags])
def test_a_batch_without_objects_gives_every_parameter_a_gradient(flags):
    model, criterion, _ = build(flags)
    model.train()
    (samples, targets), *_ = batches_of([0], torch.float32, "--masks" in flags)
    losses = criterion(model(samples), targets)
    sum(losses[k] * w for k, w in criterion.weight_dict.items() if k in losses).backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


@pytest.mark.distributed
def test_a_bad_batch_masks_the_step_of_all_processes(two):
    for rank, view in enumerate(two):
        told, changed = view["bad"]
        # The processes take turns; image ids are ten times the number of the batch.
        assert told == [[[10 * rank], [20 + 10 * rank]]]
        assert changed == [False]


@pytest.mark.distributed
def test_buffers_are_sent_where_they_move(two):
    for view in two:
        assert view["sends buffers"] == [False, True]


@pytest.mark.distributed
def test_gradients_are_added_up_over_processes_once_a_step(two):
    for once, thrice in (view["sums"] for view in two):
        assert thrice == once > 0


@pytest.mark.distributed
def test_the_replay_divides_by_the_objects_of_all_processes(two):
    for view in two:
        losses, causes, num_boxes = view["replay"]
        assert len(causes) == 2 and num_boxes == [2, 2]
        for step, again in zip(losses[:2], losses[2:], strict=True):
            assert all(torch.equal(again[name], value) for name, value in step.items())


def test_a_bad_batch_masks_the_whole_step_of_a_single_process():
    told, changed = train_a_bad_step()
    assert told == [[[20], [30]]]
    assert changed == [True, False]


def test_an_incomplete_step_at_the_end_is_left_out():
    losses, weights = train(torch.float64, accum_steps=2, counts=COUNTS[:3])
    assert len(losses) == 1
    assert_same_weights(weights, train(torch.float64, 2, counts=COUNTS[:2])[1], 0)

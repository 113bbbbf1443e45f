"""Denoising with several processes, accumulated micro-batches, and in the replay of a step."""

import pytest
import torch

from engine import train_one_epoch
from models.anchor import denoising
from tests.distributed.processes import run_connected
from tests.distributed.test_ddp import (
    COUNTS,
    assert_same_weights,
    batches_of,
    build_parallel,
    train,
)
from tests.test_engine import CPU
from training.nonfinite import NOTHING_FOUND, examine
from util.step_watch import StepWatch

FLAGS = "--query_design anchor --cls_loss focal --denoising 2"


def train_without_noise(accum_steps=1):
    """Losses and weights; without noise the results do not depend on the random generators."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denoising, "noise_boxes", lambda boxes: boxes)
        patch.setattr(denoising, "noise_labels", lambda labels, num_classes: labels)
        return train(torch.float64, accum_steps, FLAGS)


@pytest.mark.distributed
def test_two_processes_equal_two_accumulated_batches(tmp_path):
    (views,) = run_connected(train_without_noise, tmp_path / "run", 2)
    _, weights = train_without_noise(accum_steps=2)
    for losses, other in views:
        assert "loss_giou_dn_0" in losses[0]
        assert_same_weights(other, weights, 1e-9)


def test_a_replayed_step_has_the_same_noise():
    model, parallel, criterion, optimizer = build_parallel(torch.float32, FLAGS)
    losses, records = [], []
    criterion.register_forward_hook(lambda *call: losses.append(call[-1]))
    handle = model.query_embed.weight.register_hook(lambda gradient: gradient * float("nan"))
    train_one_epoch(
        *(parallel, criterion, batches_of(COUNTS[:2], torch.float32), optimizer, CPU, 0),
        watch=StepWatch(CPU, records.extend),
    )
    handle.remove()
    causes = [examine(model, criterion, record, "off") for record in records]
    assert causes == [NOTHING_FOUND, NOTHING_FOUND]
    assert len(losses) == 4 and "loss_ce_dn" in losses[0]
    for step, again in zip(losses[:2], losses[2:], strict=True):
        assert all(torch.equal(again[name], value) for name, value in step.items())

"""The keys of a checkpoint, and readers of single entries."""

import argparse

import pytest
import torch
from torch import nn

from training.averaging import AveragedModel
from training.checkpoint import (
    KEYS,
    TrainingState,
    averaged_weights_in,
    best_checkpoint,
    can_resume,
    checkpoint_of,
    classes_in,
    flags_in,
    is_of_original,
    position_in,
)
from training.progress import Progress
from util.errors import UserError
from util.optimizer import build_lr_scheduler, build_optimizer


def content(is_thing=None, progress=None):
    model = nn.ModuleDict({"backbone": nn.Linear(2, 3), "head": nn.Linear(3, 1)})
    optimizer = build_optimizer(model, 0.1, 0.01, 0.5)
    scheduler = build_lr_scheduler(optimizer, "step", 9, 2, 0.0)
    progress = progress or Progress(epoch=3, step=7)
    average = AveragedModel(model, 0.9)
    state = TrainingState(model, optimizer, scheduler, None, progress, average)
    classes = {"categories": {1: "cat"}, "is_thing": is_thing, "category_ids": [1]}
    classes |= {"split": None, "data": {}}
    return checkpoint_of(state, {"lr": 0.1}, classes)


def test_the_table_names_every_key():
    checkpoint = best_checkpoint(content(), "ema")
    assert checkpoint.keys() == KEYS.keys()
    assert content().keys() == KEYS.keys() - {"best_weights"}


def test_later_progress_does_not_change_the_entries():
    progress = Progress(epoch=3, step=7, bad_images=["a.jpg"], scores={0: 0.5})
    saved = content(progress=progress)["progress"]
    progress.bad_images.append("b.jpg")  # as the evaluation of the epoch does
    progress.scores[1] = 0.6
    assert saved["bad_images"] == ["a.jpg"] and saved["scores"] == {0: 0.5}


def test_entries_are_read_as_they_were_saved():
    checkpoint = content({1: True})
    assert position_in(checkpoint) == (2, 7)  # epoch 3 is next
    assert flags_in(checkpoint, "x.pth") == {"lr": 0.1} and not is_of_original(checkpoint)
    assert classes_in(checkpoint) == ({1: "cat"}, {1: True})
    averages = averaged_weights_in(checkpoint, "x.pth")
    assert averages.keys() == checkpoint["model"].keys()
    assert can_resume(checkpoint) and not can_resume({"model": {}, "epoch": 1})


def test_a_file_of_the_original_has_a_namespace_and_no_classes():
    checkpoint = {"model": {"a": torch.ones(1)}, "args": argparse.Namespace(lr=1)}
    assert flags_in(checkpoint, "x.pth") == {"lr": 1} and is_of_original(checkpoint)
    assert classes_in(checkpoint) == ({}, {})
    assert averaged_weights_in(checkpoint, "x.pth") is None
    with pytest.raises(UserError, match=r"x.pth: its 'args' are not flags but of type int"):
        flags_in({"args": 3}, "x.pth")

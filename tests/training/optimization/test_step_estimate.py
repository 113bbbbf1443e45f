"""Warnings at the start of a run: too few steps, weights that are never trained."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import main
from training.flags.checks import check_training_flags
from training.optimization.plan import (
    TrainingPlan,
    build_plan,
    warn_of_few_steps,
    warn_of_random_positions,
    warning_of_few_steps,
)
from training.resume import LoadedCheckpoint, Start

CONFIGS = Path(main.__file__).parent / "configs"


@pytest.mark.parametrize("from_detector", [True, False])
@pytest.mark.parametrize("frozen", [0, 3])
def test_the_suggested_epochs_are_enough_and_no_more(from_detector, frozen):
    plan = TrainingPlan(5, 4, 2, freeze_backbone_epochs=frozen, freeze_batch_size=8)
    text = warning_of_few_steps(plan, 100, from_detector)
    assert "\n" not in text and f"only {plan.num_steps(100)} optimizer steps" in text
    epochs = int(re.search(r"use --epochs (\d+) or more", text)[1])
    assert warning_of_few_steps(replace(plan, epochs=epochs), 100, from_detector) is None
    assert warning_of_few_steps(replace(plan, epochs=epochs - 1), 100, from_detector)
    assert ("--finetune" in text) != from_detector


@pytest.mark.parametrize(("warmup", "is_long"), [(60, False), (61, True)])
def test_a_warm_up_that_does_not_end_is_reported(capsys, warmup, is_long):
    plan = TrainingPlan(5, 4, 2, warmup_steps=warmup)  # 12 steps per epoch
    warn_of_few_steps(plan, 100, Start())
    said = "--warmup_steps 61: only 60 optimizer steps are planned" in capsys.readouterr().out
    assert said == is_long


def plan_of(name, *flags):
    parser = main.build_parser()
    args = parser.parse_args([f"@{CONFIGS / name}", *flags])
    check_training_flags(args)
    return build_plan(args)


@pytest.mark.parametrize(
    ("name", "num_images"),
    [
        ("shapes.txt", 4000),
        ("shapes_panoptic_boxes.txt", 4000),
        ("detr_r50.txt", 118_287),
        ("small_data.txt", 200),
        ("small_data_scratch.txt", 200),
    ],
)
def test_no_recipe_is_warned_of(name, num_images):
    assert warning_of_few_steps(plan_of(name), num_images, from_detector=False) is None


def test_fine_tuning_needs_fewer_steps():
    plan = plan_of("finetune.txt")
    assert warning_of_few_steps(plan, 100, from_detector=True) is None
    assert warning_of_few_steps(plan, 100, from_detector=False)


def test_recipes_name_their_own_file():
    for name in ("finetune.txt", "small_data.txt", "small_data_scratch.txt"):
        text = (CONFIGS / name).read_text()
        assert f"main.py @configs/{name} " in text


def _start(kind, position_embedding):
    content = {"args": {"position_embedding": position_embedding}}
    return Start(**{kind: LoadedCheckpoint("x.pth", content)})


@pytest.mark.parametrize(
    ("start", "position_embedding", "lr_backbone", "is_told"),
    [
        (Start(), "learned", 0, True),
        (_start("finetune", "sine"), "learned", 0, True),
        (_start("finetune", "learned"), "learned", 0, False),
        (_start("resume", "learned"), "learned", 0, False),
        (Start(), "learned", 1e-5, False),
        (Start(), "sine", 0, False),
    ],
)
def test_position_embeddings_that_stay_random_are_reported(
    capsys, start, position_embedding, lr_backbone, is_told
):
    warn_of_random_positions(position_embedding, lr_backbone, start)
    assert ("keep their random initial values" in capsys.readouterr().out) == is_told

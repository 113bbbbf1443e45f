"""The plan of each epoch and step, compared with naive lists."""

import pytest

from training.optimization import plan as module
from training.optimization.plan import TrainingPlan


def test_without_new_flags_all_epochs_are_the_same():
    plan = TrainingPlan(epochs=3, batch_size=2, accum_steps=4)
    for epoch in range(3):
        assert not plan.freezes_backbone(epoch) and plan.evaluates(epoch)
        assert plan.batch_size_in(epoch) == 2 and plan.images_per_step(epoch) == 8
        assert plan.lr_factor(epoch, 0) == 1.0
    assert plan.num_steps(17) == 6


def test_the_backbone_is_frozen_in_the_first_epochs_with_their_batch_size(monkeypatch):
    plan = TrainingPlan(5, 2, 3, freeze_backbone_epochs=2, freeze_batch_size=4)
    assert [plan.freezes_backbone(e) for e in range(5)] == [True, True, False, False, False]
    assert [plan.batch_size_in(e) for e in range(5)] == [4, 4, 2, 2, 2]
    monkeypatch.setattr(module, "get_world_size", lambda: 2)
    assert [plan.images_per_step(e) for e in range(3)] == [24, 24, 12]
    assert plan.num_steps(50) == 2 + 2 + 4 + 4 + 4


def test_the_batch_size_of_the_frozen_stage_is_by_default_the_same():
    assert TrainingPlan(5, 2, 1, freeze_backbone_epochs=2).batch_size_in(0) == 2


@pytest.mark.parametrize(
    ("epochs", "every", "wanted"), [(7, 3, [2, 5, 6]), (6, 3, [2, 5]), (2, 9, [1]), (2, 1, [0, 1])]
)
def test_evaluations_are_regular_and_include_the_last_epoch(epochs, every, wanted):
    plan = TrainingPlan(epochs, 2, 1, eval_every=every)
    assert [epoch for epoch in range(epochs) if plan.evaluates(epoch)] == wanted


def test_warm_up_is_linear_and_starts_above_zero():
    plan = TrainingPlan(5, 2, 1, warmup_steps=4)
    assert [plan.lr_factor(0, step) for step in range(7)] == [0.25, 0.5, 0.75, 1, 1, 1, 1]


def test_rates_scale_with_the_images_of_a_step_in_each_stage():
    stages = {"freeze_backbone_epochs": 1, "freeze_batch_size": 16}
    plan = TrainingPlan(5, 4, 2, **stages, warmup_steps=2, lr_scale_batch=True)
    assert plan.lr_factor(0, 9) == 2.0 and plan.lr_factor(1, 9) == 0.5
    assert plan.lr_factor(1, 0) == 0.25
    published = TrainingPlan(5, 2, 8, lr_scale_batch=True)  # 16 images per step
    assert published.lr_factor(0, 0) == 1.0

"""What a step tells."""

import math

import pytest
import torch

from util.step_log import reduce_logs, weigh

FULL, EMPTY = [{"labels": torch.tensor([1])}], [{"labels": torch.tensor([], dtype=torch.int64)}]


def test_the_loss_is_the_weighted_sum_and_all_parts_are_told():
    losses = {"loss_ce": torch.tensor(2.0), "error": torch.tensor(7.0), "loss_b": torch.tensor(3.0)}
    loss, log = weigh(losses, {"loss_b": 5.0, "loss_ce": 0.5, "loss_absent": 9.0}, FULL)
    assert float(loss) == 16
    assert {name: float(value) for name, value in log.items()} == {
        **{"loss": 16, "loss_ce": 1, "loss_b": 15},
        **{"loss_ce_unscaled": 2, "error_unscaled": 7, "loss_b_unscaled": 3},
    }


def test_without_objects_there_is_no_class_error():
    losses = {"loss_ce": torch.tensor(2.0), "class_error": torch.tensor(100.0)}
    _, log = weigh(losses, {"loss_ce": 1.0}, EMPTY)
    assert math.isnan(log["class_error"]) and math.isnan(log["class_error_unscaled"])
    assert float(weigh(losses, {"loss_ce": 1.0}, [*EMPTY, *FULL])[1]["class_error"]) == 100


def log_of(loss, error):
    return {"loss": torch.tensor(loss), "class_error": torch.tensor(error)}


def test_averages_are_over_what_was_observed():
    logs = [log_of(1.0, math.nan), log_of(2.0, 30.0), log_of(6.0, 50.0)]
    reduced, bad, stop = reduce_logs(logs, torch.tensor(1.0), wants_to_stop=False)
    assert float(reduced["loss"]) == pytest.approx(3) and float(reduced["class_error"]) == 40
    assert not bad and not stop
    nowhere, bad, _ = reduce_logs([log_of(1.0, math.nan)], torch.tensor(1.0), False)
    assert float(nowhere["loss"]) == 1 and math.isnan(nowhere["class_error"]) and not bad


@pytest.mark.parametrize(
    ("losses", "norm"), [([1.0, math.nan], 1.0), ([math.inf, 1.0], 1.0), ([1.0, 1.0], math.nan)]
)
def test_a_bad_batch_makes_the_step_bad(losses, norm):
    logs = [log_of(loss, 10.0) for loss in losses]
    reduced, bad, stop = reduce_logs(logs, torch.tensor(norm), wants_to_stop=True)
    assert bad and stop
    assert all(math.isnan(value) for value in reduced.values())

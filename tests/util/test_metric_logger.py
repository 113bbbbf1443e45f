"""No synchronization with the device, and log lines."""

import math
import re

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from util.metric_logger import MetricLogger, SmoothedValue


class CountOperators(TorchDispatchMode):
    """Names of the operators that run; ``_local_scalar_dense`` is what ``item()`` waits in."""

    def __init__(self):
        super().__init__()
        self.called = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.called.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def filled_logger(values: list[float]) -> MetricLogger:
    logger = MetricLogger(delimiter="  ")
    for value in values:
        logger.update(loss=torch.tensor(value), lr=0.5)
    return logger


# ---- MetricLogger --------------------------------------------------------------------------------


def test_update_reads_nothing():
    losses = [torch.rand(()) for _ in range(30)]
    logger = MetricLogger()
    with CountOperators() as operators:
        for loss in losses:
            logger.update(loss=loss, class_error=loss, lr=0.1)
    assert set(operators.called) <= {"detach", "view"}
    assert logger.loss.count == 30


def test_a_line_reads_all_meters_at_once():
    logger = MetricLogger()
    for _ in range(10):
        logger.update(**{f"loss_{index}": torch.rand(()) for index in range(46)})
    with CountOperators() as operators:
        str(logger)
        str(logger)
    assert operators.called == ["stack"]


def test_values_of_several_types_keep_their_meters():
    logger = MetricLogger()
    logger.update(
        a=torch.tensor(1 / 3, dtype=torch.float64), b=torch.tensor(7), c=torch.tensor(0.5)
    )
    logger.update(a=0.25, b=True, c=torch.tensor(1.5, dtype=torch.float64))
    assert logger.a.global_avg == (1 / 3 + 0.25) / 2
    assert logger.b.total == 8
    assert logger.c.total == 2


def test_line_of_all_meters_in_order_of_appearance():
    logger = filled_logger([1.5, 2.5])
    logger.add_meter("rate", SmoothedValue(window_size=1, fmt="{value:.2f}"))
    logger.update(rate=0.25)
    assert str(logger) == "loss: 1.5000 (2.0000)  lr: 0.5000 (0.5000)  rate: 0.25"


def test_meters_are_attributes():
    logger = filled_logger([1.0])
    assert logger.loss is logger.meters["loss"]
    with pytest.raises(AttributeError, match="nor a meter 'loos'"):
        _ = logger.loos
    assert "loos" not in logger.meters


def test_synchronizing_a_single_process_changes_nothing():
    logger = filled_logger([1.0, 4.0])
    logger.synchronize_between_processes()
    logger.loss.synchronize_between_processes()
    assert (logger.loss.count, logger.loss.total, logger.loss.value) == (2, 5, 4)


# ---- log_every -----------------------------------------------------------------------------------

NUMBER = r"(\d+\.?\d*(e[+-]\d+)?|nan)"
LINE = re.compile(
    rf"Epoch: \[3\]  \[ *\d+/\d+\]  eta: \d+:\d\d:\d\d  lr: {NUMBER}  class_error: {NUMBER}"
    rf"  loss: {NUMBER} \({NUMBER}\)  time: {NUMBER}  data: {NUMBER}(  max mem: \d+)?"
    rf"(  img/s: {NUMBER})?"
)


def test_the_end_prints_and_returns_the_averages(capsys):
    assert filled_logger([1.0, 2.0]).finish() == {"loss": 1.5, "lr": 0.5}
    assert capsys.readouterr().out.startswith("Averaged stats: loss: 1.0000 (1.5000)")


def test_lines_have_the_form_that_log_readers_know(capsys):
    logger = MetricLogger(delimiter="  ")
    logger.add_meter("lr", SmoothedValue(window_size=1, fmt="{value:.6f}"))
    logger.add_meter("class_error", SmoothedValue(window_size=1, fmt="{value:.2f}"))
    for _ in logger.log_every([("images", ({}, {}))] * 25, 10, "Epoch: [3]"):
        logger.update(lr=1e-4, class_error=torch.tensor(math.nan), loss=torch.tensor(1.5))
    *lines, last = capsys.readouterr().out.splitlines()
    assert [LINE.fullmatch(line) is not None for line in lines] == [True] * 4, lines
    places = [re.search(r"\[( *\d+)/25\]", line)[1] for line in lines]
    assert places == [" 0", "10", "20", "24"]
    assert "eta: 0:00:00" in lines[-1]
    assert re.fullmatch(rf"Epoch: \[3\] Total time: 0:00:\d\d \({NUMBER} s / it\)", last)


def test_time_left_is_that_of_the_steps_to_come(capsys, monkeypatch):
    now = iter(range(0, 10_000, 30))  # every look at the clock is half a minute later
    monkeypatch.setattr("util.metric_logger.time.perf_counter", lambda: float(next(now)))
    assert list(MetricLogger("  ").log_every(range(3), 1)) == [0, 1, 2]
    lines = capsys.readouterr().out.splitlines()
    assert [re.search(r"eta: (\S+)", line)[1] for line in lines[:3]] == [
        "0:02:00",
        "0:01:00",
        "0:00:00",
    ]
    assert "time: 60.0000  data: 30.0000" in lines[1]
    assert lines[-1].endswith("Total time: 0:03:30 (70.0000 s / it)")


def test_a_loop_that_is_continued_counts_the_earlier_items(capsys):
    list(MetricLogger("  ").log_every(range(3), 2, "Epoch:", first=3))
    lines = capsys.readouterr().out.splitlines()
    assert [line[:13] for line in lines[:-1]] == ["Epoch:  [4/6]", "Epoch:  [5/6]"]


def test_images_per_second(capsys, monkeypatch):
    now = iter(range(10_000))
    monkeypatch.setattr("util.metric_logger.time.perf_counter", lambda: float(next(now)))
    counted = [("images", [{}] * 6), ("images", [{}] * 2)]
    list(MetricLogger("  ").log_every(counted, 1))
    list(MetricLogger("  ").log_every([1, 2], 1))
    monkeypatch.setattr("util.metric_logger.get_world_size", lambda: 2)
    list(MetricLogger("  ").log_every(counted, 1))
    rates = re.findall(r"img/s: (\S+)", capsys.readouterr().out)
    assert rates == ["3.0", "2.0", "6.0", "4.0"]


def test_nothing_to_loop_over(capsys):
    assert list(MetricLogger("  ").log_every([], 10, "Test:")) == []
    assert capsys.readouterr().out == "Test: Total time: 0:00:00 (0.0000 s / it)\n"


@pytest.mark.parametrize("endless", [False, True], ids=["generator", "data loader without length"])
def test_items_without_a_length(capsys, endless):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(range(3))

    source = torch.utils.data.DataLoader(Stream(), batch_size=None) if endless else iter(range(3))
    assert list(MetricLogger("  ").log_every(source, 2, "Test:")) == [0, 1, 2]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  time")[0] for line in lines[:-1]] == [
        "Test:  [0/?]  eta: ?",
        "Test:  [2/?]  eta: ?",
    ]


@pytest.mark.cuda
def test_a_line_waits_for_the_gpu_once():
    logger = MetricLogger()
    for step in range(10):
        logger.update(**{f"loss_{i}": torch.ones((), device="cuda") * step for i in range(46)})
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        str(logger)
    copies = [event for event in profile.events() if "Memcpy DtoH" in event.name]
    assert len(copies) == 1
    assert logger.loss_7.global_avg == 4.5

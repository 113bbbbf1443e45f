"""The two styles of output: estimates, explanations, tables."""

import argparse

import pytest

from training.progress import Progress
from training.terminal import output as output_module
from training.terminal.output import Output, ShortOutput, build_output
from util.metric_logger import MetricLogger
from util.terminal.bar_logger import BarLogger

STATS = {"coco_eval_bbox": [0.3] * 12}


def test_the_style_decides():
    args = argparse.Namespace(log_style="full", epochs=3)
    assert type(build_output(args)) is Output
    args.log_style = "short"
    assert type(build_output(args)) is ShortOutput
    args.log_style = "auto"  # pytest captures stdout
    assert type(build_output(args)) is Output


def test_full_output_prints_what_the_original_prints(capsys):
    output = Output()
    assert type(output.epoch_logger(0)) is type(output.evaluation_logger()) is MetricLogger
    output.log_line("Start training")
    output.explain(["AP is 0: because"])
    output.scores(Progress(), STATS, {})
    output.end(Progress(), None)
    assert capsys.readouterr().out == "Start training\nAP is 0: because\n"


def test_the_same_explanation_is_printed_once(capsys):
    output = ShortOutput(epochs=3)
    output.explain(["one " * 40, "two"])
    output.explain(["two", "three"])
    output.explain(["two"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("Note: ")][1:] == ["Note: two", "Note: three"]
    assert max(map(len, lines)) <= 100 and lines[1].startswith("      one")


def test_scores_end_with_the_best_so_far(capsys):
    output = ShortOutput(epochs=3)
    assert isinstance(output.epoch_logger(0), BarLogger)
    output.scores(Progress(scores={0: 0.1, 1: 0.3}, ema_scores={1: 0.35}), STATS, STATS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["best AP so far: 0.350 in epoch 1 (EMA weights)", ""]
    assert sum("(EMA weights)" in line for line in lines) == 2


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        ([0], 5 + 3 * 10),  # nothing known about evaluations
        ([0, 14], 5 + 4 + 2 * 14),  # 10 s of training, 4 s of evaluation
        ([0, 14, 24], 5 + 2 + 1 * 12),  # --eval_every 2
        ([0, 3], 5 + 2 * 10),  # the first epoch was continued
    ],
)
def test_time_left_in_the_run(monkeypatch, starts, expected):
    clock = iter([0, *starts])
    monkeypatch.setattr(output_module.time, "monotonic", lambda: next(clock))
    output = ShortOutput(epochs=4)
    for epoch in range(len(starts)):
        output.epoch_logger(epoch)
    assert output._run_seconds_left(5, 10) == expected

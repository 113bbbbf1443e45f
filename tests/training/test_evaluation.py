"""Evaluation of a run's model."""

from types import SimpleNamespace

import pytest

import main
from training.evaluation import build_evaluation
from training.run_files import RunFolder


@pytest.mark.parametrize(
    ("flags", "is_told"),
    [
        (["--dilation"], True),
        (["--dilation", "--batch_size", "1"], False),
        (["--dilation", "--eval_batch_size", "1"], False),
        (["--dilation", "--batch_size", "1", "--eval_batch_size", "4"], True),
        ([], False),
    ],
)
def test_padded_batches_of_dc5_models_are_reported(flags, is_told, capsys):
    args = main.parse_command_line(["--device", "cpu", *flags]).args
    parts = dict.fromkeys(("criterion", "postprocessors", "loader", "data", "output"))
    build_evaluation(args, folder=RunFolder(""), **parts)  # type: ignore[arg-type]
    assert ("lose AP in padded batches" in capsys.readouterr().out) == is_told


@pytest.mark.parametrize(
    ("crowds", "flags", "kind", "is_told"),
    [
        ([], ["--patience", "3"], "bbox", True),
        ([1, 1], ["--patience", "3"], "bbox", True),
        ([1, 0], ["--patience", "3"], "bbox", False),
        ([], [], "bbox", False),
        ([], ["--patience", "3", "--eval"], "bbox", False),
        ([], ["--patience", "3"], "panoptic", False),  # stuff alone has a panoptic quality
    ],
)
def test_patience_without_a_score_is_reported(crowds, flags, kind, is_told, capsys):
    args = main.parse_command_line(["--device", "cpu", *flags]).args
    parts = dict.fromkeys(("criterion", "loader", "output"))
    truth = SimpleNamespace(anns={i: {"iscrowd": crowd} for i, crowd in enumerate(crowds)})
    data = SimpleNamespace(ground_truth=truth)
    build_evaluation(args, postprocessors={kind: None}, data=data, folder=RunFolder(""), **parts)  # type: ignore[arg-type]
    assert ("--patience 3 will not stop this run" in capsys.readouterr().out) == is_told

"""Evaluation of a run's model."""

import pytest

import main
from training.evaluation import build_evaluation
from training.folder import RunFolder


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

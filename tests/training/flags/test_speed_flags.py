"""--compile, --tf32 and --activation_checkpointing: refused where they mean nothing."""

import pytest

from main import get_args_parser
from training.flags.checks import check_flags
from util.errors import UserError


def refusal(*words):
    args = get_args_parser().parse_args(["--dataset_file", "shapes", "--device", "cpu", *words])
    with pytest.raises(UserError) as caught:
        check_flags(args)
    return str(caught.value)


def test_tf32_needs_a_gpu():
    assert refusal("--tf32") == "--tf32 is for NVIDIA GPUs: omit it with --device cpu"


@pytest.mark.parametrize("flag", ["--compile", "--activation_checkpointing"])
def test_evaluation_has_no_use_for_flags_of_training(flag):
    assert refusal(flag, "--eval") == f"{flag} changes only training: omit it with --eval"


def test_recomputed_layers_are_not_compiled():
    assert "omit it or --compile" in refusal("--compile", "--activation_checkpointing")


def test_recomputing_needs_frozen_norms():
    words = refusal("--activation_checkpointing", "--backbone_norm", "batch")
    assert "--backbone_norm frozen" in words

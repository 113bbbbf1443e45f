"""Runs with `--amp auto`: what is computed, printed and saved, and runs continued elsewhere."""

import pytest
import torch

import engine
from tests.distributed.processes import run_connected
from tests.drawn_data import drawn_data
from tests.test_main import read_checkpoint
from tests.test_main import run_simple as run
from tests.training.test_resume import assert_same_runs
from training.flags import precision
from training.flags.precision import agree_on_precision, with_flag_as_given
from training.resume import Start
from util.distributed.processes import get_rank
from util.system.precision import Precision

RUN = ["--amp", "auto", "--lr_drop", "2", "--lr", "1e-3"]

data = drawn_data(num_train=4, num_val=2)


@pytest.fixture
def processor(monkeypatch):
    """Sets whether the processor has fast bf16."""

    def pretend(has_fast_bf16):
        monkeypatch.setattr("util.system.precision.has_fast_bf16", lambda device: has_fast_bf16)
        support = lambda amp: has_fast_bf16  # noqa: E731
        monkeypatch.setattr("util.system.precision._onednn_supports", support)

    return pretend


@pytest.fixture
def precisions(monkeypatch):
    """Precisions in which the model has computed."""
    computed = set()
    original = engine.forward_pass

    def forward_pass(model, samples, device, amp, targets=None):
        computed.add(amp)
        return original(model, samples, device, amp, targets)

    monkeypatch.setattr(engine, "forward_pass", forward_pass)
    return computed


@pytest.mark.parametrize(("fast", "chosen"), [(False, "off"), (True, "bf16")])
def test_a_run_computes_in_the_chosen_precision(
    data, tmp_path, processor, precisions, capsys, fast, chosen
):
    processor(fast)
    assert run(data, *RUN, "--epochs", "1", "--output_dir", tmp_path) == 0
    assert precisions == {chosen}
    reason = "this processor has fast bf16" if fast else "this processor has no fast bf16"
    dtype = "bfloat16" if fast else "float32"
    assert f"Computing in {dtype} (--amp auto: {reason})" in capsys.readouterr().out
    args = read_checkpoint(tmp_path / "checkpoint.pth")["args"]
    assert (args["amp"], args["amp_auto"]) == (chosen, reason)
    assert "--amp auto\n" in (tmp_path / "config.txt").read_text()


@pytest.mark.parametrize("fast", [False, True])
def test_a_resumed_run_is_the_uninterrupted_run(data, tmp_path, processor, capsys, fast):
    processor(fast)
    assert run(data, *RUN, "--epochs", "2", "--output_dir", tmp_path / "whole") == 0
    parts = ["--output_dir", tmp_path / "parts", "--auto_resume"]
    assert run(data, *RUN, "--epochs", "1", *parts) == 0
    capsys.readouterr()
    assert run(data, *RUN, "--epochs", "2", *parts) == 0
    assert "was trained with --amp" not in capsys.readouterr().out
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("fast", [False, True])
def test_a_run_continued_on_another_kind_of_processor(
    data, tmp_path, processor, precisions, capsys, fast
):
    processor(fast)
    assert run(data, *RUN, "--epochs", "1", "--output_dir", tmp_path) == 0
    processor(not fast)
    checkpoint = tmp_path / "checkpoint.pth"
    before, now = ("bf16", "float32") if fast else ("off", "bfloat16")
    has = "no fast" if fast else "fast"
    told = (
        f"{checkpoint} was trained with --amp {before}, now {now} (--amp auto: this processor has "
        f"{has} bf16); results may differ by rounding"
    )
    for flags in (["--eval"], ["--epochs", "2", "--output_dir", tmp_path]):
        precisions.clear()
        capsys.readouterr()
        assert run(data, *flags, "--resume", checkpoint) == 0
        out = capsys.readouterr().out
        assert told in out and "--amp auto" in out
        assert precisions == {"off" if fast else "bf16"}
    for name in ("config.txt", "config-1.txt"):  # of both starts
        assert "--amp auto\n" in (tmp_path / name).read_text()


def test_the_command_line_overrides_a_saved_auto(data, tmp_path, processor, precisions, capsys):
    processor(True)
    assert run(data, *RUN, "--epochs", "1", "--output_dir", tmp_path) == 0
    precisions.clear()
    capsys.readouterr()
    assert run(data, "--eval", "--amp", "off", "--resume", tmp_path / "checkpoint.pth") == 0
    assert "--amp: auto in the checkpoint, now off" in capsys.readouterr().out
    assert precisions == {"off"}


def test_a_slow_precision_is_warned_of_once(data, processor, precisions, capsys):
    processor(False)
    assert run(data, "--amp", "bf16", "--epochs", "1") == 0
    out = capsys.readouterr().out
    assert out.count("Warning: --amp bf16 is many times slower than --amp off") == 1
    assert precisions == {"bf16"}


def test_the_flag_as_given():
    assert with_flag_as_given({"amp": "off", "amp_auto": "slow"})["amp"] == "auto"
    assert with_flag_as_given({"amp": "bf16", "amp_auto": ""})["amp"] == "bf16"
    assert with_flag_as_given({"lr": 1}) == {"lr": 1}


def agree():
    """Precision of this rank with `--amp auto` and with bf16; only rank 0 has fast bf16."""
    with pytest.MonkeyPatch.context() as patch:
        is_fast = get_rank() == 0
        patch.setattr("util.system.precision.has_fast_bf16", lambda device: is_fast)
        patch.setattr("util.system.precision._onednn_supports", lambda amp: is_fast)
        return [agree_on_precision(amp, "cpu", Start()) for amp in ("auto", "bf16", "off")]


@pytest.mark.distributed
def test_all_ranks_compute_in_float32_if_one_has_no_fast_bf16(tmp_path):
    (ranks,) = run_connected(agree, tmp_path / "processes", 2)
    assert ranks[0] == ranks[1]
    auto, bf16, off = ranks[0]
    assert auto == Precision("off", "rank 1: this processor has no fast bf16")
    assert bf16.amp == "bf16" and bf16.warning.startswith("rank 1: --amp bf16 is many times slower")
    assert off == Precision("off")


def test_ranks_with_the_same_device_need_no_rank(monkeypatch):
    fast, slow = Precision("bf16", "fast"), Precision("off", "slow")
    for choice in (fast, slow):
        monkeypatch.setattr(precision, "all_gather", lambda own: [own, own])
        monkeypatch.setattr(precision, "choose_precision", lambda amp, device, c=choice: c)
        assert agree_on_precision("auto", "cpu", Start()) == choice


def test_a_model_runs_in_no_unknown_precision():
    with pytest.raises(ValueError, match="expected amp off, bf16 or fp16, got 'auto'"):
        engine.forward_pass(torch.nn.Identity(), torch.zeros(1), torch.device("cpu"), "auto")

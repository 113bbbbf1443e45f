"""An interrupted and resumed run equals an uninterrupted run, bit for bit."""

import functools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.drawn_data import drawn_data
from tests.narrow_resnet import SHALLOW
from tests.programs import ForkedProgram
from tests.test_main import FLAGS, ROOT, assert_one_line, read_checkpoint, read_log, run
from training import evaluation, loop
from util.cli.signals import StopRequested

# Dropout, augmentation and auxiliary losses on; three steps an epoch.
RUN = ["--epochs", "3", "--lr_drop", "2", "--lr", "1e-3"]

data = drawn_data(num_train=6, num_val=3)


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert run(data, *RUN, "--output_dir", folder) == 0
    return folder


def assert_same(found, wanted, where="checkpoint"):
    """Nested values are equal, tensors bit for bit."""
    assert type(found) is type(wanted), where
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for name in wanted:
            assert_same(found[name], wanted[name], f"{where}.{name}")
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted), where
        for index, pair in enumerate(zip(found, wanted, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    elif isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted), where
    else:
        assert found == wanted, where


def assert_same_runs(folder, wanted):
    """Newest and best checkpoint, but for the flags of the start, and the log."""
    assert (folder / "log.txt").read_text() == (wanted / "log.txt").read_text()
    assert_same(contents(folder), contents_once(wanted))


def contents(folder):
    """Checkpoints by file name, without their flags. Reading is slower with ``weights_only``."""
    names = ("checkpoint.pth", "best.pth", "checkpoint0001.pth")
    checkpoints = {name: torch.load(folder / name, weights_only=False) for name in names}
    for checkpoint in checkpoints.values():
        del checkpoint["args"]
    return checkpoints


contents_once = functools.cache(contents)  # of runs with which many others are compared


class Interrupt:
    """Ends a run at the n-th call of a function, as a signal or a crash would."""

    def __init__(self, monkeypatch, owner, name, call, how):
        self.calls = 0
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            self.calls += 1
            if self.calls == call:
                how()
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)


def crash():
    raise RuntimeError("lightning")


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def kill(signum):
    return lambda: os.kill(os.getpid(), signum)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("steps", [[2], [3, 1, 1]])
def test_stopped_by_signals_and_continued(
    data, uninterrupted, tmp_path, monkeypatch, steps, num_workers
):
    flags = [*RUN, "--output_dir", tmp_path, "--auto_resume", "--num_workers", num_workers]
    for step, signum in zip(steps, (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1), strict=False):
        with monkeypatch.context() as patch:
            Interrupt(patch, loop.Run, "_after_step", step, kill(signum))
            assert run(data, *flags) == 128 + signum
    assert run(data, *flags) == 0
    assert_same_runs(tmp_path, uninterrupted)


@pytest.mark.parametrize("call", [1, 2, 3, 5, 7, 9])
def test_crashed_between_checkpoints_and_continued(
    data, uninterrupted, tmp_path, monkeypatch, call
):
    flags = [*RUN, "--output_dir", tmp_path, "--auto_resume", "--save_every", "2"]
    with monkeypatch.context() as patch:
        Interrupt(patch, loop.Run, "_after_step", call, crash)
        with pytest.raises(RuntimeError, match="lightning"):
            run(data, *flags)
    assert run(data, *flags) == 0
    assert_same_runs(tmp_path, uninterrupted)


@pytest.mark.parametrize("owner", ["evaluate", "append_log", "keep_as_best"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_crashed_at_the_end_of_an_epoch_and_continued(
    data, uninterrupted, tmp_path, monkeypatch, owner, call
):
    flags = [*RUN, "--output_dir", tmp_path, "--auto_resume"]
    holder = evaluation if owner == "evaluate" else loop.RunFolder
    with monkeypatch.context() as patch:
        interrupt = Interrupt(patch, holder, owner, call, crash)
        try:
            run(data, *flags)
        except RuntimeError:
            assert interrupt.calls == call
    assert run(data, *flags) == 0
    assert_same_runs(tmp_path, uninterrupted)


def test_checkpoints_between_epochs_count_the_steps_of_the_run(data, tmp_path):
    flags = ["--epochs", "2", "--save_every", "2", "--keep_last", "9", "--output_dir", tmp_path]
    assert run(data, *flags) == 0  # three steps an epoch
    steps = [int(path.stem[-9:]) for path in sorted(tmp_path.glob("checkpoint-step*.pth"))]
    assert steps == [2, 3, 4, 6]


# Of two processes none stops within the evaluation; they learn of a signal a step later.
@pytest.mark.parametrize(("step", "world"), [(3, 1), (2, 2)])
def test_a_stop_at_the_end_of_an_epoch_leaves_its_evaluation_to_the_next_run(
    data, tmp_path, monkeypatch, step, world
):
    flags = ["--epochs", "1", "--output_dir", tmp_path, "--auto_resume"]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "get_world_size", lambda: world)
        Interrupt(patch, loop.Run, "_after_step", step, kill(signal.SIGTERM))
        assert run(data, *flags) == 143
    assert read_checkpoint(tmp_path / "checkpoint.pth")["epoch"] == 0
    assert not (tmp_path / "log.txt").exists()
    assert run(data, *flags) == 0
    assert [entry["epoch"] for entry in read_log(tmp_path)] == [0]


def test_a_half_written_line_of_the_log_is_replaced(data, uninterrupted, tmp_path):
    flags = [*RUN, "--output_dir", tmp_path, "--auto_resume"]
    assert run(data, *flags, "--epochs", "2") == 0
    with (tmp_path / "log.txt").open("a") as file:
        file.write('{"train_lr": 0.1, "epo')
    assert run(data, *flags) == 0
    assert (tmp_path / "log.txt").read_text() == (uninterrupted / "log.txt").read_text()


def test_a_line_of_the_log_that_is_not_ours_is_passed_over(data, tmp_path):
    flags = [*RUN, "--output_dir", tmp_path, "--auto_resume"]
    assert run(data, *flags, "--epochs", "1") == 0
    with (tmp_path / "log.txt").open("a") as file:
        file.write('{"epoch": 0, "note": "mine"}\n')
    assert run(data, *flags, "--epochs", "2") == 0
    assert [entry["epoch"] for entry in read_log(tmp_path)] == [0, 0, 1]


def test_mixed_precision_and_batch_norm_continue_exactly(data, tmp_path, monkeypatch):
    mixed = [*RUN, "--amp", "bf16", "--backbone_norm", "batch", "--lr_backbone", "1e-3"]
    assert run(data, *mixed, "--output_dir", tmp_path / "a") == 0
    flags = [*mixed, "--output_dir", tmp_path / "b", "--auto_resume"]
    with monkeypatch.context() as patch:
        Interrupt(patch, loop.Run, "_after_step", 5, kill(signal.SIGTERM))
        assert run(data, *flags) == 143
    assert run(data, *flags) == 0
    assert_same_runs(tmp_path / "b", tmp_path / "a")


def test_averaged_weights_are_saved_scored_and_continued_exactly(data, tmp_path, monkeypatch):
    averaged = [*RUN, "--ema_decay", "0.9"]
    assert run(data, *averaged, "--output_dir", tmp_path / "a") == 0
    flags = [*averaged, "--output_dir", tmp_path / "b", "--auto_resume"]
    with monkeypatch.context() as patch:
        Interrupt(patch, loop.Run, "_after_step", 5, kill(signal.SIGTERM))
        assert run(data, *flags) == 143
    assert run(data, *flags) == 0
    assert_same_runs(tmp_path / "b", tmp_path / "a")
    checkpoint = read_checkpoint(tmp_path / "a" / "checkpoint.pth")
    assert checkpoint["ema"].keys() == checkpoint["model"].keys()
    name = "class_embed.weight"
    assert not torch.equal(checkpoint["ema"][name], checkpoint["model"][name])
    entry = read_log(tmp_path / "a")[-1]
    assert entry["ema_loss"] != entry["test_loss"] and len(entry["ema_coco_eval_bbox"]) == 12


def test_averaged_weights_follow_the_weights_of_every_step(data, tmp_path):
    every_step = ["--save_every", "1", "--keep_last", "9", "--output_dir", tmp_path]
    assert run(data, *RUN, "--epochs", "2", "--ema_decay", "0.75", *every_step) == 0
    files = sorted(tmp_path.glob("checkpoint-step*.pth"))
    assert len(files) == 6
    average = None
    for checkpoint in map(read_checkpoint, files):
        weights = checkpoint["model"]["class_embed.weight"]
        average = weights if average is None else 0.75 * average + 0.25 * weights
        assert torch.allclose(checkpoint["ema"]["class_embed.weight"], average, atol=1e-6)
    assert not torch.allclose(average, weights, atol=1e-4)


def test_deterministic_kernels_suffice_on_the_cpu(data, uninterrupted, tmp_path, monkeypatch):
    used = []
    is_enabled = torch.are_deterministic_algorithms_enabled
    Interrupt(monkeypatch, loop.Run, "_after_step", 1, lambda: used.append(is_enabled()))
    assert run(data, *RUN, "--deterministic", "--output_dir", tmp_path) == 0
    assert used == [True] and not is_enabled()  # the next run in a notebook chooses itself
    assert_same_runs(tmp_path, uninterrupted)


def test_auto_resume_starts_afresh_in_an_empty_folder_and_needs_one(data, tmp_path, capsys):
    assert run(data, "--epochs", "1", "--auto_resume", "--output_dir", tmp_path) == 0
    capsys.readouterr()
    assert_one_line(capsys, run(data, "--auto_resume"), "--output_dir")


def test_auto_resume_starts_a_new_log_after_the_checkpoints_were_deleted(data, tmp_path, capsys):
    (tmp_path / "log.txt").write_text('{"epoch": 0, "train_loss": 5}\n')
    assert run(data, "--epochs", "1", "--auto_resume", "--output_dir", tmp_path) == 0
    assert "the complete log is in" in capsys.readouterr().out
    assert [entry["epoch"] for entry in read_log(tmp_path)] == [0]
    assert read_log(tmp_path)[0]["train_loss"] != 5
    assert '"train_loss": 5}' in (tmp_path / "log-before-epoch0000.txt").read_text()


def test_a_run_continued_in_a_folder_with_another_log_starts_a_new_one(
    data, uninterrupted, tmp_path
):
    (tmp_path / "log.txt").write_text('{"epoch": 3, "train_loss": 5}\n')
    flags = [*RUN, "--epochs", "4", "--resume", uninterrupted / "checkpoint.pth", "--auto_resume"]
    assert run(data, *flags, "--output_dir", tmp_path) == 0
    assert [entry["epoch"] for entry in read_log(tmp_path)] == [3]
    assert read_log(tmp_path)[0]["train_loss"] != 5


def test_auto_resume_goes_back_to_an_earlier_checkpoint(data, uninterrupted, tmp_path, capsys):
    flags = [*RUN, "--output_dir", tmp_path, "--auto_resume", "--keep_last", "3"]
    assert run(data, *flags, "--epochs", "2") == 0
    earlier = sorted(path.name for path in tmp_path.glob("checkpoint-step*.pth"))
    assert earlier == ["checkpoint-step000000003.pth", "checkpoint-step000000006.pth"]
    for name in ("checkpoint.pth", earlier[1]):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    assert run(data, *flags) == 0
    assert "damaged or truncated" in capsys.readouterr().out
    assert_same_runs(tmp_path, uninterrupted)


def test_a_second_ctrl_c_ends_at_once(data, tmp_path, monkeypatch):
    def twice():
        kill(signal.SIGINT)()
        kill(signal.SIGINT)()

    Interrupt(monkeypatch, loop, "train_one_epoch", 1, twice)
    assert run(data, *RUN, "--output_dir", tmp_path) == 130
    assert not (tmp_path / "checkpoint.pth").exists()


def test_handlers_of_signals_are_put_back(data, monkeypatch):
    def handlers():
        return [signal.getsignal(number) for number in STOPPING]

    before, during = handlers(), []
    Interrupt(monkeypatch, loop.Run, "_after_step", 1, lambda: during.extend(handlers()))
    assert run(data, *RUN) == 0
    assert during and not set(during) & set(before)
    assert handlers() == before


def test_ignored_signals_stay_ignored(data, monkeypatch):
    """SIGHUP with nohup, SIGINT in what a script runs in the background."""
    Interrupt(monkeypatch, loop.Run, "_after_step", 1, kill(signal.SIGINT))
    Interrupt(monkeypatch, loop.Run, "_after_step", 1, kill(signal.SIGHUP))
    signums = (signal.SIGINT, signal.SIGHUP)
    before = [signal.signal(signum, signal.SIG_IGN) for signum in signums]
    try:
        assert run(data, *RUN) == 0
    finally:
        for signum, handler in zip(signums, before, strict=True):
            signal.signal(signum, handler)


def test_a_warning_of_slurm_stops_a_run_whose_script_ignores_it(data, monkeypatch):
    Interrupt(monkeypatch, loop.Run, "_after_step", 1, kill(signal.SIGUSR1))
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # trap "" USR1
    try:
        assert run(data, *RUN) == 138
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_stopped_without_a_folder_says_that_nothing_is_saved(data, monkeypatch, capsys):
    Interrupt(monkeypatch, loop.Run, "_after_step", 1, kill(signal.SIGTERM))
    assert run(data, *RUN) == 143
    assert "nothing is saved without --output_dir" in capsys.readouterr().err
    assert StopRequested(signal.SIGUSR1, "").exit_status == 138


def test_patience(data, tmp_path, monkeypatch, capsys):
    scores = iter([0.2, 0.5, 0.4, 0.5, 0.9])
    monkeypatch.setattr(loop, "validation_score", lambda stats: next(scores))
    flags = ["--epochs", "9", "--patience", "2", "--output_dir", tmp_path]
    assert run(data, *flags) == 0
    assert [entry["epoch"] for entry in read_log(tmp_path)] == [0, 1, 2, 3]
    assert "(--patience 2): no better validation score since epoch 1" in capsys.readouterr().out
    assert read_checkpoint(tmp_path / "best.pth")["epoch"] == 1


def test_patience_waits_for_a_run_that_detects_nothing_yet(data, tmp_path, monkeypatch, capsys):
    scores = iter([0.0, 0.0004, 0.0, 0.0, 0.02, 0.0, 0.01, 0.9])
    monkeypatch.setattr(loop, "validation_score", lambda stats: next(scores))
    flags = ["--epochs", "9", "--patience", "2", "--output_dir", tmp_path]
    assert run(data, *flags) == 0
    assert "(--patience 2): no better validation score since epoch 4" in capsys.readouterr().out
    assert len(read_log(tmp_path)) == 7


def test_flags_given_now_win_and_differences_are_printed(data, uninterrupted, tmp_path, capsys):
    resume = ["--resume", uninterrupted / "checkpoint.pth", "--output_dir", tmp_path]
    assert run(data, *resume, "--epochs", "4", "--lr", "5e-4", "--weight_decay", "0") == 0
    output = capsys.readouterr().out
    assert "--lr: 0.001 in the checkpoint, now 0.0005" in output
    assert "--epochs: 3 in the checkpoint, now 4" in output
    assert f"From {uninterrupted / 'checkpoint.pth'}: --lr_drop 2\n" in output
    (entry,) = read_log(tmp_path)
    assert entry["train_lr"] == pytest.approx(5e-5)  # one drop, after two epochs, is past
    checkpoint = read_checkpoint(tmp_path / "checkpoint.pth")
    assert [g["weight_decay"] for g in checkpoint["optimizer"]["param_groups"]] == [0, 0]
    assert checkpoint["args"]["lr_drop"] == 2


def test_a_flag_that_is_younger_than_the_checkpoint_had_its_default(
    data, uninterrupted, tmp_path, capsys
):
    checkpoint = read_checkpoint(uninterrupted / "checkpoint.pth")
    for name in ("crop_prob", "scales"):
        del checkpoint["args"][name]
    torch.save(checkpoint, tmp_path / "old.pth")
    flags = ["--resume", tmp_path / "old.pth", "--epochs", "4", "--output_dir", tmp_path]
    assert run(data, *flags, "--crop_prob", "0") == 0
    output = capsys.readouterr().out
    assert "--crop_prob: 0.5 in the checkpoint, now 0.0" in output
    assert "--scales" not in output  # by default there is no value to tell


@pytest.mark.parametrize("step", [7, torch.tensor(7.0)])
def test_a_checkpoint_of_the_original_goes_on(data, uninterrupted, tmp_path, step):
    checkpoint = read_checkpoint(uninterrupted / "checkpoint.pth")
    for group in checkpoint["optimizer"]["param_groups"]:
        del group["fused"], group["foreach"]
    for state in checkpoint["optimizer"]["state"].values():
        state["step"] = step
    old = {k: checkpoint[k] for k in ("model", "optimizer", "lr_scheduler", "epoch", "args")}
    torch.save(old, tmp_path / "old.pth")
    flags = ["--resume", tmp_path / "old.pth", "--epochs", "4", "--output_dir", tmp_path / "out"]
    assert run(data, *flags) == 0
    optimizer = read_checkpoint(tmp_path / "out" / "checkpoint.pth")["optimizer"]
    assert float(optimizer["state"][0]["step"]) == 10


def test_the_kind_of_schedule_is_the_checkpoint_s_unless_given(data, tmp_path):
    cosine = ["--epochs", "4", "--lr", "1e-3", "--lr_scheduler", "cosine"]
    assert run(data, *cosine, "--epochs", "2", "--output_dir", tmp_path / "a") == 0
    resume = ["--resume", tmp_path / "a" / "checkpoint.pth", "--epochs", "4", "--lr_drop", "3"]
    assert run(data, *resume, "--output_dir", tmp_path / "b") == 0
    rates = [entry["train_lr"] for entry in read_log(tmp_path / "b")]
    assert rates == pytest.approx([5e-4, 1e-3 * (1 - 2**-0.5) / 2])
    assert run(data, *resume, "--lr_scheduler", "step", "--output_dir", tmp_path / "c") == 0
    assert [e["train_lr"] for e in read_log(tmp_path / "c")] == pytest.approx([1e-3, 1e-4])


def test_another_drop_of_the_rate_takes_effect(data, uninterrupted, tmp_path):
    resume = ["--resume", uninterrupted / "checkpoint.pth", "--output_dir", tmp_path]
    assert run(data, *resume, "--epochs", "4", "--lr_drop", "9") == 0
    (entry,) = read_log(tmp_path)
    assert entry["train_lr"] == pytest.approx(1e-3)


def test_checkpoints_tell_where_they_come_from(uninterrupted):
    checkpoint = read_checkpoint(uninterrupted / "checkpoint.pth")
    assert checkpoint["step"] == 9 and checkpoint["epoch"] == 2
    assert checkpoint["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert len(checkpoint["rng"]) == 1
    assert set(checkpoint["progress"]["scores"]) == {0, 1}


def start(data, folder, *flags):
    """A run in a process of its own."""
    script = ROOT / "tests/distributed/narrow_main.py"
    command = [sys.executable, "-W", "error", script, *FLAGS, "--backbone", SHALLOW]
    command += ["--coco_path", str(data), "--output_dir", str(folder), *map(str, flags)]
    return ForkedProgram(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
    )


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


def test_ctrl_c_that_also_ends_the_reader_of_the_output(data, tmp_path):
    process = start(data, tmp_path, "--epochs", "1000", "--num_workers", "1")
    wait_for(tmp_path / "log.txt", process)
    process.stdout.close()  # as of `| tee`
    os.killpg(process.pid, signal.SIGINT)
    with process.stderr:
        assert process.stderr.read().startswith("main.py: stopped by SIGINT")
    assert process.wait(timeout=60) == 130
    entries = (tmp_path / "log.txt").read_text().splitlines()
    assert read_checkpoint(tmp_path / "checkpoint.pth")["epoch"] >= len(entries) - 1


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_process_group_ends_in_one_line(data, tmp_path, signum):
    process = start(data, tmp_path, "--epochs", "1000", "--num_workers", "1")
    wait_for(tmp_path / "log.txt", process)
    os.killpg(process.pid, signum)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    (line,) = error.strip().splitlines()
    assert line.startswith("main.py: stopped by ") and line.endswith(" --auto_resume")
    entries = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert read_checkpoint(tmp_path / "checkpoint.pth")["epoch"] >= entries[-1]["epoch"]

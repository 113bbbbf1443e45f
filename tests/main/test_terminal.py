"""What a run prints on a terminal, and that files and statistics do not depend on it."""

import json
import re

import pytest

from tests.cheap_runs import with_pictures
from tests.drawn_data import drawn_data
from tests.terminals import Terminal, drawn_lines, screen
from tests.test_main import read_checkpoint, read_log
from tests.test_main import run_simple as run
from util.terminal import bar

data = drawn_data(num_train=6, num_val=3)


def on_terminal(data, *flags, columns=120):
    """Everything that a run writes to a terminal, and its exit status."""
    with Terminal(columns) as terminal:
        status = run(data, *flags)
    return terminal.text(), status


@pytest.fixture(scope="module")
def short(data, tmp_path_factory):
    """Two epochs on a terminal: the output folder and what was written."""
    folder = tmp_path_factory.mktemp("short") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bar, "_SECONDS_BETWEEN_DRAWINGS", 0)
        patch.setattr(bar, "_SECONDS_BETWEEN_READINGS", 0)
        text, status = on_terminal(data, "--epochs", "2", "--output_dir", folder)
    assert status == 0
    return folder, text


def test_a_run_on_a_terminal(short):
    folder, text = short
    lines = [line for line in screen(text) if line]
    kinds = [line.split()[0] for line in lines]
    expected = ["training", "validation", "classes", "model", "weights", "device", "epochs"]
    expected += ["output", *["epoch", "validation", "boxes", "best"] * 2, "Training", "Next:"]
    assert [kind for kind in kinds if kind in expected] == expected
    assert "Namespace(" not in text and "IoU metric" not in text and "Epoch:" not in text
    assert re.search(r"^epoch 1 loss [\d.]+ class [\d.]+ box [\d.]+ GIoU", "\n".join(lines), re.M)
    assert f"python main.py --eval --resume {folder}/best.pth" in text


def test_steps_fit_into_100_characters(short):
    bars = [line for line in drawn_lines(short[1]) if re.match(r"(epoch|validation).*%", line)]
    assert len(bars) >= 8 and max(map(len, bars)) <= 100
    for entry in ("loss", "class", "box", "GIoU", "err", "lr 1e-4", "img/s", "ETA"):
        assert entry in bars[0]


def test_files_do_not_depend_on_the_style(short, data, tmp_path, capsys):
    folder, _ = short
    for style in ("full", "short"):
        other = tmp_path / style
        assert run(data, "--epochs", "2", "--output_dir", other, "--log_style", style) == 0
        assert read_log(other) == read_log(folder)
        assert {path.name for path in other.iterdir()} == {path.name for path in folder.iterdir()}
        mine, theirs = (read_checkpoint(one / "checkpoint.pth") for one in (folder, other))
        assert all(value.equal(theirs["model"][name]) for name, value in mine["model"].items())
    assert "\r" not in capsys.readouterr().out


def test_redirected_output_has_the_lines_of_the_original(data, tmp_path, capsys):
    with with_pictures():
        assert run(data, "--epochs", "1", "--output_dir", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = [
        *("git:", "Namespace(", "number of params: ", "Start training"),
        *("Epoch: [0]  [0/3]  eta: ", "Epoch: [0] Total time", "Averaged stats: lr: "),
        *("Test:  [0/2]  eta: ", "Test: Total time", "Accumulating", "DONE", "IoU metric: bbox"),
        *(" Average Precision  (AP) @[ IoU=0.50:0.95 ", " Average Recall     (AR) @[ "),
        *("By class, bbox:", "Detections next to ground truth: ", "best.pth: epoch 0, AP "),
        "Training time 0:",
    ]
    found = iter(lines)  # in this order
    assert all(any(line.startswith(start) for line in found) for start in expected)
    assert "Next:" not in lines


def test_the_config_repeats_the_run(short, data, tmp_path):
    folder, _ = short
    config = f"@{folder / 'config.txt'}"
    assert run(data, config, "--output_dir", tmp_path / "again", "--log_style", "full") == 0
    assert read_log(tmp_path / "again") == read_log(folder)


def test_a_continued_run_keeps_its_earlier_config(data, tmp_path):
    flags = ["--output_dir", tmp_path, "--save_every", "1"]
    assert run(data, "--epochs", "1", *flags) == 0
    assert run(data, "--epochs", "1", "--auto_resume", *flags) == 0
    assert not (tmp_path / "config-1.txt").exists()
    text, status = on_terminal(data, "--epochs", "2", "--auto_resume", *flags)
    assert status == 0 and "  change" in text
    assert "--epochs 1" in (tmp_path / "config-1.txt").read_text()
    config = (tmp_path / "config.txt").read_text().splitlines()
    assert "--epochs 2" in config and "# --auto_resume" in config
    assert not any(line.startswith("--resume") for line in config)


def test_overwrite_moves_the_config_of_the_earlier_run(data, tmp_path):
    assert run(data, "--epochs", "1", "--output_dir", tmp_path) == 0
    (tmp_path / "config-1.txt").touch()
    assert run(data, "--epochs", "1", "--lr", "1e-3", "--overwrite", "--output_dir", tmp_path) == 0
    assert (tmp_path / "earlier-1" / "config.txt").exists()
    assert "--lr 0.001" in (tmp_path / "config.txt").read_text()
    assert not (tmp_path / "config-1.txt").exists()


def test_an_evaluation_prints_all_tables(short, data):
    text, status = on_terminal(data, "--eval", "--resume", short[0] / "best.pth")
    assert status == 0
    lines = screen(text)
    assert {"IoU metric: bbox", "By class, bbox:"} <= set(lines)
    assert not any(line.startswith("boxes") for line in lines)
    assert "Next:" not in lines and not any(line.startswith("best") for line in lines)


def test_divergence_ends_below_a_clean_line(data):
    text, status = on_terminal(data, "--epochs", "1", "--lr", "1e30", "--clip_max_norm", "0")
    assert status == 1
    (line,) = [line for line in screen(text) if "training stopped" in line]
    assert line.startswith("main.py: training stopped: ")


def test_skipped_steps_are_reported_above_the_bar(data):
    flags = ["--epochs", "1", "--lr", "1e30", "--clip_max_norm", "0", "--max_skipped_steps", "9"]
    text, _ = on_terminal(data, *flags)
    assert any(line.startswith("epoch 0, step 1") for line in screen(text))


def test_the_style_is_not_taken_from_a_checkpoint(data, tmp_path, capsys):
    assert run(data, "--epochs", "1", "--output_dir", tmp_path, "--log_style", "short") == 0
    capsys.readouterr()
    assert run(data, "--eval", "--resume", tmp_path / "best.pth") == 0
    assert "Namespace(" in capsys.readouterr().out


def test_style_is_checked(data, capsys):
    with pytest.raises(SystemExit) as ended:
        run(data, "--log_style", "long")
    assert ended.value.code == 2 and "--log_style" in capsys.readouterr().err


def test_log_is_json(short):
    assert all(json.loads(line) for line in (short[0] / "log.txt").read_text().splitlines())

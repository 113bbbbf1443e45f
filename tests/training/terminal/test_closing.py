"""The last lines of a training."""

import shlex

from training.progress import Progress
from training.terminal.output import closing_lines


def test_best_epoch_files_and_next_commands(tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    for name in ("best.pth", "checkpoint.pth", "log.txt", "config.txt"):
        (folder / name).touch()
    progress = Progress(epoch=3, scores={0: 0.1, 1: 0.4, 2: 0.3})
    lines = closing_lines(progress, "AP", 3725, folder)
    assert lines[0] == "Training finished after 3 epochs, in 1h02. Best: epoch 1, AP 0.400."
    assert [line.split()[0] for line in lines if line.startswith("  ") and ".p" in line[:10]]
    files = lines[2 : lines.index("Next:")]
    assert [line.split()[0] for line in files] == [
        *("best.pth", "checkpoint.pth", "log.txt", "config.txt")
    ]
    evaluate, predict, report = (shlex.split(line) for line in lines[-3:])
    assert evaluate == ["python", "main.py", "--eval", "--resume", f"{folder}/best.pth"]
    assert "--ema" not in predict
    assert predict[:5] == ["python", "predict.py", "IMAGES", "--checkpoint", f"{folder}/best.pth"]
    assert report == ["python", "-m", "report", str(folder)]


def test_averaged_weights_are_named(tmp_path):
    progress = Progress(epoch=1, scores={0: 0.1}, ema_scores={0: 0.2})
    (tmp_path / "best.pth").touch()
    (first, *_, predict, _) = closing_lines(progress, "PQ", 5, tmp_path)
    assert "best.pth --ema --output_dir" in predict
    assert first.endswith("Best: epoch 0, PQ 0.200, EMA weights.")


def test_a_run_without_evaluation_or_folder(tmp_path):
    (tmp_path / "checkpoint.pth").touch()
    lines = closing_lines(Progress(epoch=1), "AP", 5, tmp_path)
    assert "Best" not in lines[0] and f"--resume {tmp_path}/checkpoint.pth" in lines[-3]
    assert closing_lines(Progress(epoch=1), "AP", 5, None)[1:] == [
        "Nothing was saved: no --output_dir was given."
    ]

"""best.pth and --patience: the better of raw and EMA weights counts."""

import pytest
import torch

from export.weights import read_weights
from tests.drawn_data import drawn_data
from tests.test_main import read_checkpoint, read_log
from tests.test_main import run_simple as run
from tests.training.test_resume import Interrupt, assert_same, crash
from training import evaluation, evaluation_output, loop, progress
from training.progress import Progress, score_name

AVERAGED = ["--lr", "1e-3", "--ema_decay", "0.9"]

data = drawn_data(num_train=4, num_val=2)


# ---- which epoch, and which weights


@pytest.mark.parametrize(
    ("raw", "averaged", "wanted"),
    [
        ({}, {}, (None, "model")),
        ({0: 0.1, 1: 0.3, 2: 0.2}, {}, (1, "model")),
        ({0: 0.1, 1: 0.3, 2: 0.2}, {2: 0.4}, (2, "ema")),
        ({0: 0.1, 1: 0.3, 2: 0.2}, {0: 0.3, 1: 0.0, 2: 0.3}, (0, "ema")),
        ({0: 0.5, 1: 0.3}, {0: 0.5, 1: 0.5}, (0, "model")),
        ({0: 0.0, 1: 0.0}, {}, (1, "model")),  # the first epoch would stay the best one for ever
        ({0: 0.0, 1: 0.0}, {0: 0.0, 1: -1.0}, (1, "model")),
        ({0: 1e-7, 1: 0.0}, {}, (1, "model")),  # printed as 0.000
        ({0: 0.0, 1: 0.2, 2: 0.2, 3: 0.0}, {}, (1, "model")),
        ({0: -1.0, 1: -1.0}, {0: -1.0}, (None, "model")),  # validation data without objects
    ],
)
def test_the_best_epoch_and_its_weights(raw, averaged, wanted):
    progress = Progress(scores=raw, ema_scores=averaged)
    assert (progress.best_epoch, progress.best_weights) == wanted


def test_scores_of_both_come_from_the_log():
    progress = Progress(epoch=3)
    progress.take_scores(
        [
            {"epoch": 0, "test_coco_eval_bbox": [0.1], "ema_coco_eval_bbox": [0.2]},
            {"epoch": 1, "test_coco_eval_bbox": [0.3]},
            {"epoch": 2, "test_PQ_all": {"pq": 0.4}, "ema_PQ_all": {"pq": None}},
            {"epoch": 3, "test_coco_eval_bbox": [0.9], "ema_coco_eval_bbox": [0.9]},
        ]
    )
    assert progress.scores == {0: 0.1, 1: 0.3, 2: 0.4}
    assert progress.ema_scores == {0: 0.2, 2: -1.0}


def test_names_of_scores():
    boxes = {"coco_eval_bbox": [0.1]}
    assert score_name(boxes) == "AP"
    assert score_name({**boxes, "coco_eval_masks": [0.1]}) == "mask AP"
    assert score_name({**boxes, "PQ_all": {"pq": 0.1}}) == "PQ"


# ---- runs


def best_of(output):
    return [line for line in output.splitlines() if line.startswith("best.pth: ")]


def test_averaged_weights_choose_best_and_patience(data, tmp_path, monkeypatch, capsys):
    scores = iter([0.2, 0.1, 0.5, 0.4, 0.3, 0.6, 0.55, 0.5, 0.4, 0.6])  # raw, averaged
    monkeypatch.setattr(loop, "validation_score", lambda stats: next(scores))
    flags = [*AVERAGED, "--epochs", "9", "--patience", "2", "--output_dir", tmp_path]
    assert run(data, *flags) == 0
    output = capsys.readouterr().out
    assert best_of(output) == [
        "best.pth: epoch 0, raw weights, AP 0.200",
        "best.pth: epoch 1, raw weights, AP 0.500",
        "best.pth: epoch 2, EMA weights, AP 0.600",
    ]
    assert "(--patience 2): no better validation score since epoch 2 (EMA weights)" in output
    assert len(read_log(tmp_path)) == 5
    best = read_checkpoint(tmp_path / "best.pth")
    assert best["epoch"] == 2 and best["best_weights"] == "ema"


def test_without_averaged_weights_best_is_the_checkpoint_itself(data, tmp_path, capsys):
    assert run(data, "--epochs", "1", "--output_dir", tmp_path) == 0
    (line,) = best_of(capsys.readouterr().out)
    (entry,) = read_log(tmp_path)
    assert line == f"best.pth: epoch 0, AP {entry['test_coco_eval_bbox'][0]:.3f}"
    assert (tmp_path / "best.pth").samefile(tmp_path / "checkpoint.pth")


@pytest.fixture
def scored_by_loss(monkeypatch):
    """The largest loss wins: EMA weights, which lag behind, as long as training gets on."""
    for module in (loop, progress):
        monkeypatch.setattr(module, "validation_score", lambda stats: stats["loss"])


@pytest.mark.parametrize("owner", ["append_log", "keep_as_best"])
def test_crashed_and_continued_best_says_the_same(
    data, tmp_path, monkeypatch, scored_by_loss, owner
):
    flags = [*AVERAGED, "--epochs", "2", "--output_dir"]
    assert run(data, *flags, tmp_path / "a") == 0
    assert read_checkpoint(tmp_path / "a" / "best.pth")["best_weights"] == "ema"
    again = [*flags, tmp_path / "b", "--auto_resume"]
    with monkeypatch.context() as patch:
        Interrupt(patch, loop.RunFolder, owner, 1, crash)
        with pytest.raises(RuntimeError, match="lightning"):
            run(data, *again)
    assert run(data, *again) == 0
    for name in ("best.pth", "checkpoint.pth"):
        pair = [read_checkpoint(tmp_path / folder / name) for folder in ("b", "a")]
        for checkpoint in pair:
            del checkpoint["args"]
        assert_same(*pair)


def test_a_checkpoint_without_scores_of_averaged_weights_goes_on(data, tmp_path, scored_by_loss):
    flags = [*AVERAGED, "--output_dir", tmp_path, "--auto_resume"]
    assert run(data, *flags, "--epochs", "1") == 0
    (tmp_path / "best.pth").unlink()
    checkpoint = read_checkpoint(tmp_path / "checkpoint.pth")
    del checkpoint["progress"]["ema_scores"]
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    assert run(data, *flags, "--epochs", "2", "--lr", "0") == 0
    progress = read_checkpoint(tmp_path / "checkpoint.pth")["progress"]
    assert progress["scores"].keys() == progress["ema_scores"].keys() == {0}
    assert read_checkpoint(tmp_path / "best.pth")["best_weights"] == "ema"


def test_readers_of_raw_weights_get_a_notice(data, tmp_path, capsys, scored_by_loss):
    assert run(data, *AVERAGED, "--epochs", "1", "--output_dir", tmp_path) == 0
    best = tmp_path / "best.pth"
    capsys.readouterr()

    def said():
        return "the averaged (EMA) weights scored better" in capsys.readouterr().out

    read_weights(best)
    assert said()
    read_weights(best, averaged=True)
    assert not said()
    assert run(data, "--eval", "--resume", best) == 0
    text = capsys.readouterr().out  # with the --ema_decay of the checkpoint both are scored
    assert "scored better" not in text
    titles = ["EMA weights:", "Raw weights (written to the files and to --dump_detections):"]
    assert [line for line in text.splitlines() if " weights" in line] == titles
    assert run(data, "--eval", "--resume", best, "--ema_decay", "0") == 0
    assert said()
    assert run(data, "--eval", "--resume", best, "--ema_decay", "0.9") == 0
    assert not said()
    assert run(data, "--epochs", "1", "--finetune", best) == 0
    assert said()
    read_weights(tmp_path / "checkpoint.pth")
    assert "raw weights are used, not its averaged (EMA) weights" in capsys.readouterr().out


# ---- thresholds


@pytest.fixture
def thresholds_by_evaluation(monkeypatch):
    """Each evaluation gets the next threshold: EMA weights come first in each epoch."""
    numbers = iter(range(1, 9))
    monkeypatch.setattr(
        evaluation, "thresholds_in", lambda _: {"best_f1": next(numbers) / 10, "by_class": {}}
    )


def test_detections_are_matched_once_per_evaluation(data, tmp_path, monkeypatch):
    """It takes seconds on COCO."""
    calls = []
    monkeypatch.setattr(evaluation_output, "best_thresholds", lambda *_: calls.append(1))
    best = tmp_path / "best.pth"
    assert run(data, *AVERAGED, "--epochs", "1", "--output_dir", tmp_path) == 0
    assert len(calls) == 2  # raw and EMA weights
    assert run(data, "--eval", "--resume", best, "--output_dir", tmp_path / "last") == 0
    assert len(calls) == 4
    assert run(data, "--eval", "--resume", best, "--output_dir", "") == 0
    assert len(calls) == 4  # there is no file to write them to


def threshold_in(path):
    return read_checkpoint(path)["thresholds"]["best_f1"]


def test_best_has_the_thresholds_of_its_own_evaluation(
    data, tmp_path, monkeypatch, thresholds_by_evaluation
):
    scores = iter([0.5, 0.1, 0.2, 0.1])  # raw, averaged
    monkeypatch.setattr(loop, "validation_score", lambda stats: next(scores))
    flags = [*AVERAGED, "--epochs", "2", "--keep_last", "2", "--output_dir", tmp_path]
    assert run(data, *flags) == 0
    assert threshold_in(tmp_path / "best.pth") == 0.2
    assert threshold_in(tmp_path / "checkpoint.pth") == 0.4
    copies = sorted(tmp_path.glob("checkpoint-step*.pth"))
    assert [threshold_in(path) for path in copies] == [0.2, 0.4]
    assert copies[1].samefile(tmp_path / "checkpoint.pth")


def test_best_averaged_weights_have_their_own_thresholds(
    data, tmp_path, scored_by_loss, thresholds_by_evaluation
):
    assert run(data, *AVERAGED, "--epochs", "1", "--output_dir", tmp_path) == 0
    assert threshold_in(tmp_path / "best.pth") == 0.1
    assert threshold_in(tmp_path / "checkpoint.pth") == 0.2


def test_thresholds_survive_a_resumed_epoch(data, tmp_path, thresholds_by_evaluation):
    flags = ["--output_dir", tmp_path, "--auto_resume"]
    assert run(data, *flags, "--epochs", "1") == 0
    assert run(data, *flags, "--epochs", "1") == 0
    assert threshold_in(tmp_path / "checkpoint.pth") == 0.1


def test_weights_without_evaluation_have_no_thresholds(data, tmp_path, thresholds_by_evaluation):
    flags = ["--epochs", "5", "--eval_every", "2", "--output_dir", tmp_path, "--keep_last", "20"]
    averaged = ["--ema_decay", "0.9", "--batch_size", "2", "--save_every", "1"]
    assert run(data, *flags, *averaged) == 0
    thresholds, of_average = {}, {}
    for path in sorted(tmp_path.glob("checkpoint-step*.pth")):
        checkpoint = read_checkpoint(path)
        step, progress = checkpoint["step"], checkpoint["progress"]
        thresholds[step] = (checkpoint["thresholds"] or {}).get("best_f1")
        of_average[step] = (progress["ema_thresholds"] or {}).get("best_f1")
    none = dict.fromkeys(range(1, 11))  # two steps per epoch
    assert thresholds == {**none, 4: 0.2, 8: 0.4, 10: 0.6}
    assert of_average == {**none, 4: 0.1, 8: 0.3, 10: 0.5}


def test_resumed_runs_drop_the_thresholds_of_earlier_weights(
    data, tmp_path, thresholds_by_evaluation
):
    assert run(data, "--epochs", "1", "--output_dir", tmp_path / "a") == 0
    first = tmp_path / "a" / "checkpoint.pth"
    flags = ["--resume", first, "--epochs", "3", "--eval_every", "3", "--keep_last", "2"]
    assert run(data, *flags, "--output_dir", tmp_path / "b") == 0
    unscored, scored = map(read_checkpoint, sorted((tmp_path / "b").glob("checkpoint-step*.pth")))
    assert (unscored["epoch"], unscored["thresholds"]) == (1, None)
    assert (scored["epoch"], scored["thresholds"]["best_f1"]) == (2, 0.2)
    assert threshold_in(first) == 0.1

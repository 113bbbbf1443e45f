"""No run overwrites another, and none is lost: used folders, ``--overwrite``, numbered folders."""

import argparse
import shutil
from pathlib import Path

import pytest
import torch

import main
from datasets.shapes.directory import write_shapes
from tests.drawn_data import drawn_data
from tests.test_main import SIMPLE, assert_one_line, read_checkpoint, read_log
from tests.test_main import run_simple as run
from training import evaluation, loop

data = drawn_data(num_train=4, num_val=3)


@pytest.fixture(scope="module")
def two_epochs(data, tmp_path_factory):
    """A run whose first epoch is the best; ``checkpoint0000.pth`` is kept."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        let_epochs_score(patch, 0.5, 0.1)
        assert run(data, "--epochs", "2", "--lr_drop", "1", "--output_dir", folder) == 0
    return folder


@pytest.fixture
def used(two_epochs, tmp_path):
    return shutil.copytree(two_epochs, tmp_path / "used")


def let_epochs_score(monkeypatch, *scores):
    """Give evaluations these AP, one after the other."""
    evaluate, left = evaluation.evaluate, list(scores)

    def scored(*args, **kwargs):
        stats, evaluator = evaluate(*args, **kwargs)
        stats["coco_eval_bbox"][0] = left.pop(0)
        return stats, evaluator

    monkeypatch.setattr(evaluation, "evaluate", scored)


def test_a_run_continued_in_another_folder_says_where_the_best_epoch_is(
    data, two_epochs, tmp_path, monkeypatch, capsys
):
    let_epochs_score(monkeypatch, 0.2)
    start = ["--resume", two_epochs / "checkpoint.pth", "--epochs", "3"]
    assert run(data, *start, "--output_dir", tmp_path / "new") == 0
    told = f"best.pth: the best epoch so far is 0, in the folder of {two_epochs}/checkpoint.pth"
    assert told in capsys.readouterr().out
    assert not (tmp_path / "new" / "best.pth").exists()


def content_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def epochs_in(folder):
    return [entry["epoch"] for entry in read_log(folder)]


# ---- a used folder


@pytest.mark.parametrize(
    "start", [[], ["--resume", "{}/elsewhere.pth"], ["--finetune", "{}/used/checkpoint.pth"]]
)
def test_a_start_in_a_used_folder_is_refused(data, used, capsys, monkeypatch, start):
    monkeypatch.setattr(loop, "Run", None)  # before anything is loaded
    before = content_of(used)
    flags = [word.format(used.parent) for word in start]
    status = run(data, "--epochs", "1", "--output_dir", used, *flags)
    ways = ["--auto_resume", "a different folder", "--overwrite", "best.pth", "log.txt"]
    assert_one_line(capsys, status, str(used), *ways)
    assert content_of(used) == before


def test_a_checkpoint_of_the_folder_goes_on_there(data, used):
    resume = ["--resume", used / "checkpoint.pth", "--epochs", "3", "--lr_drop", "1"]
    assert run(data, *resume, "--output_dir", used) == 0
    assert epochs_in(used) == [0, 1, 2]


def test_an_evaluation_leaves_a_used_folder_as_it_is(data, used, two_epochs):
    before = content_of(used)
    assert run(data, "--eval", "--resume", two_epochs / "best.pth", "--output_dir", used) == 0
    after = content_of(used)
    assert after.keys() - before.keys() == {Path("eval.pth")}
    assert after[Path("log.txt")] == before[Path("log.txt")]
    assert after[Path("best.pth")] == before[Path("best.pth")]


def test_overwrite_sets_the_earlier_run_aside(data, used, capsys):
    before = content_of(used)
    (used / "notes.txt").write_text("mine")
    start = ["--finetune", used / "checkpoint.pth", "--overwrite", "--epochs", "1"]
    assert run(data, *start, "--output_dir", used) == 0
    assert f"now in {used / 'earlier-1'}" in capsys.readouterr().out
    assert content_of(used / "earlier-1") == before
    assert epochs_in(used) == [0] and (used / "notes.txt").exists()


def test_overwrite_moves_nothing_before_training_starts(data, used, capsys):
    before = content_of(used)
    flags = ["--overwrite", "--output_dir", used, "--train_ann", "/nowhere.json"]
    assert_one_line(capsys, run(data, *flags), "/nowhere.json")
    assert content_of(used) == before


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--auto_resume", "--output_dir", "{}"], "one of them"),
        (["--resume", "{}/checkpoint.pth", "--output_dir", "{}"], "one of them"),
        (["--eval", "--output_dir", "{}"], "--eval"),
        (["--output_dir", ""], "--output_dir"),
    ],
)
def test_overwrite_where_it_means_nothing(data, tmp_path, capsys, flags, word):
    flags = [flag.format(tmp_path) for flag in flags]
    assert_one_line(capsys, run(data, "--overwrite", *flags), "--overwrite", word)


# ---- going back to an earlier checkpoint


def test_going_back_sets_a_later_best_checkpoint_aside(data, tmp_path, monkeypatch, capsys):
    flags = ["--lr_drop", "1", "--output_dir", tmp_path]
    let_epochs_score(monkeypatch, 0.3, 0.1, 0.9)
    assert run(data, "--epochs", "3", *flags) == 0
    best = (tmp_path / "best.pth").read_bytes()
    monkeypatch.undo()
    let_epochs_score(monkeypatch, 0.2, 0.4)
    back = ["--resume", tmp_path / "checkpoint0001.pth"]
    assert run(data, "--epochs", "3", *flags, *back) == 0
    assert (tmp_path / "abandoned-best-epoch0002.pth").read_bytes() == best
    text = capsys.readouterr().out
    assert "abandoned-best-epoch0002.pth" in text
    assert not (tmp_path / "best.pth").exists()  # epoch 0 was better than epoch 2 is now
    told = f"best.pth: epoch 0 is the best so far, but there is no best.pth of it in {tmp_path}"
    assert f"{told}; one is written once an epoch scores better\n" in text
    assert run(data, "--epochs", "4", *flags, "--auto_resume") == 0
    assert read_checkpoint(tmp_path / "best.pth")["epoch"] == 3


def test_going_back_keeps_an_earlier_best_checkpoint(data, used, monkeypatch):
    best = (used / "best.pth").read_bytes()
    let_epochs_score(monkeypatch, 0.2)
    flags = ["--epochs", "2", "--lr_drop", "1", "--output_dir", used]
    assert run(data, "--resume", used / "checkpoint0000.pth", *flags) == 0
    assert (used / "best.pth").read_bytes() == best
    assert epochs_in(used) == [0, 1]
    assert read_checkpoint(used / "abandoned-checkpoint-epoch0001.pth")["epoch"] == 1


def test_weights_alone_in_a_used_folder_start_a_new_log(data, used):
    weights = {"model": read_checkpoint(used / "checkpoint.pth")["model"]}
    torch.save(weights, used / "weights.pth")
    start = ["--resume", used / "weights.pth", "--epochs", "1", "--output_dir", used]
    assert run(data, *start) == 0
    assert epochs_in(used) == [0]
    assert len((used / "log-before-epoch0000.txt").read_text().splitlines()) == 2
    assert (used / "abandoned-best-epoch0000.pth").is_file()


# ---- no folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def without_folder(data, *flags):
    small = [*SIMPLE, "--coco_path", str(data), "--epochs", "1"]
    return main.run([*map(str, flags), *small])


def test_a_training_without_a_folder_is_kept(data, here, capsys):
    assert without_folder(data, "--save_every", "1") == 0
    output = capsys.readouterr().out
    assert "this run writes to outputs/coco-1" in "".join(output.splitlines(True)[:8])
    assert {"checkpoint.pth", "best.pth", "log.txt"} <= {
        path.name for path in Path("outputs/coco-1").iterdir()
    }
    (here / "tiny.txt").write_text("--dropout 0\n")
    assert without_folder(data, "@tiny.txt") == 0
    assert epochs_in(here / "outputs/tiny-1") == [0]
    ways = ["--output_dir", "outputs/tiny-1", "--auto_resume", "--epochs", "2"]
    assert main.run([*SIMPLE, "--coco_path", str(data), *ways]) == 0
    assert epochs_in(here / "outputs/tiny-1") == [0, 1]


def test_no_empty_folder_is_left(data, two_epochs, here, capsys):
    assert_one_line(capsys, without_folder(data, "--train_ann", "/nowhere.json"), "/nowhere")
    assert without_folder(data, "--resume", two_epochs / "checkpoint.pth") == 0
    assert "Nothing left to do" in capsys.readouterr().out
    assert without_folder(data, "--eval", "--resume", two_epochs / "checkpoint.pth") == 0
    assert_one_line(capsys, without_folder(data, "--auto_resume"), "--auto_resume needs --output")
    assert not any(here.iterdir())


def test_a_namespace_without_a_folder_writes_nothing(data, here):
    parser = argparse.ArgumentParser(parents=[main.get_args_parser()])
    flags = [*SIMPLE, "--coco_path", str(data), "--epochs", "1"]
    main.main(parser.parse_args(flags))
    assert not any(here.iterdir())


def test_saving_every_few_steps_needs_a_folder(data, capsys):
    status = run(data, "--save_every", "5", "--output_dir", "")
    assert_one_line(capsys, status, "--save_every requires --output_dir")


# ---- what is said after an evaluation


def test_equal_boxes_are_reported_in_training_and_evaluation(two_epochs, tmp_path, capsys):
    write_shapes(tmp_path / "shapes", num_train=2, num_val=6, image_size=64)
    checkpoint = read_checkpoint(two_epochs / "best.pth")
    checkpoint["model"]["bbox_embed.layers.2.weight"].zero_()  # boxes whatever the image
    torch.save(checkpoint, tmp_path / "equal.pth")
    frozen = ["--epochs", "1", "--lr", "0", "--lr_backbone", "0"]
    assert run(tmp_path / "shapes", "--finetune", tmp_path / "equal.pth", *frozen) == 0
    trained = capsys.readouterr().out
    assert "mean IoU 1.00 across images" in trained and "If it persists, start from" in trained
    assert run(tmp_path / "shapes", "--eval", "--resume", tmp_path / "equal.pth") == 0
    evaluated = capsys.readouterr().out
    assert "AP is not meaningful yet" in evaluated and "first epochs" not in evaluated


def test_going_back_changes_nothing_before_training_starts(data, used, capsys):
    before = content_of(used)
    flags = ["--resume", used / "checkpoint0000.pth", "--output_dir", used, "--batch_size", "100"]
    assert_one_line(capsys, run(data, *flags), "--batch_size 100")
    assert content_of(used) == before

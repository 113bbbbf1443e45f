"""Weights of any format."""

import argparse
import json

import pytest
import torch

from export.command import metadata_of
from export.source import from_file
from export.weights import flags_of, read_weights, run, write_weights
from main import parse_command_line
from tests.export.key_names.test_detectron2 import as_detectron2
from tests.export.small_files import BOXES, CATEGORIES, MASKS, build, write_checkpoint
from tests.util.tiny_detr import TinyDetr
from training.flags.arguments import flag_actions
from training.flags.saved import resolve_for_new_run
from util.category_ids import category_id_of
from util.errors import UserError


def assert_same_weights(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_comes_back_with_what_tells_its_model(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    model = write_checkpoint(path)
    checkpoint = read_weights(path)
    assert_same_weights(checkpoint["model"], model.state_dict())
    assert checkpoint["categories"] == CATEGORIES
    assert flags_of(checkpoint) == {**BOXES.flags(), "scales": [96, 64], "max_size": 160}


def test_only_weights_and_what_tells_the_model_are_written(tmp_path):
    state = TinyDetr().state_dict()
    checkpoint = {
        "model": state,
        "optimizer": {"state": {}},
        "epoch": 4,
        "args": argparse.Namespace(lr=1, nheads=2),
    }
    write_weights(tmp_path / "plain.pth", checkpoint)
    plain = torch.load(tmp_path / "plain.pth", weights_only=True)
    assert plain.keys() == {"model", "epoch", "args"}
    assert plain["args"] == {"nheads": 2}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_threshold_of_segments_is_written(tmp_path, suffix):
    path = str(tmp_path / f"weights{suffix}")
    flags = {**MASKS.flags(), "panoptic_threshold": 0.6}
    write_weights(path, {"model": build(MASKS).state_dict(), "args": flags})
    assert from_file(path, {}).segment_threshold == 0.6


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_fine_tuning_of_written_weights_keeps_the_meaning_of_scores(tmp_path, suffix):
    path = str(tmp_path / f"weights{suffix}")
    focal = {**BOXES.flags(), "cls_loss": "focal", "iou_targets": True, "denoising": 5}
    write_weights(path, {"model": build(BOXES).state_dict(), "args": focal})
    args = parse_command_line(["--finetune", path, "--device", "cpu"]).args
    args = resolve_for_new_run(args, "finetune", read_weights(path), set(), flag_actions())
    assert (args.cls_loss, args.iou_targets, args.denoising) == ("focal", True, 0)


def test_a_bare_state_dict_has_no_flags(tmp_path):
    torch.save(TinyDetr().state_dict(), tmp_path / "bare.pth")
    checkpoint = read_weights(tmp_path / "bare.pth")
    assert flags_of({"model": checkpoint}) == {}


@pytest.mark.parametrize("wrapped", [True, False])
def test_names_of_detectron2_become_ours(tmp_path, wrapped):
    state = build(BOXES).state_dict()
    theirs = {as_detectron2(key): value for key, value in state.items()}
    torch.save({"model": theirs, "epoch": 3} if wrapped else theirs, tmp_path / "d2.pth")
    checkpoint = read_weights(tmp_path / "d2.pth")
    assert_same_weights(checkpoint["model"], state)
    assert checkpoint.get("epoch") == (3 if wrapped else None)
    assert set(checkpoint) <= {"model", "epoch"}


def test_the_command_converts_there_and_back(tmp_path, capsys):
    start, between, end = (tmp_path / name for name in ("a.pth", "b.safetensors", "c.pth"))
    model = write_checkpoint(start)
    assert run([str(start), str(between)]) == 0
    assert run([str(between), str(end)]) == 0
    assert f"tensors written to {end}" in capsys.readouterr().out
    assert_same_weights(read_weights(end)["model"], model.state_dict())
    assert read_weights(end)["args"] == read_weights(start)["args"]


def test_mistakes_end_in_one_line(tmp_path, capsys):
    write_checkpoint(tmp_path / "a.pth")
    missing = str(tmp_path / "missing.safetensors")
    assert run([missing, str(tmp_path / "b.pth")]) == 2
    for place in (tmp_path / "no" / "b.pth", tmp_path, tmp_path / "a.pth"):
        assert run([str(tmp_path / "a.pth"), str(place)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and missing in lines[0]
    assert "its folder does not exist" in lines[1] and "is a folder" in lines[2]
    assert "a.pth is the file that is read: choose a different output file" in lines[3]


def test_the_command_takes_averages(tmp_path):
    last, averages = TinyDetr().state_dict(), TinyDetr().state_dict()
    torch.save({"model": last, "ema": averages}, tmp_path / "a.pth")
    assert run([str(tmp_path / "a.pth"), str(tmp_path / "b.pth"), "--ema"]) == 0
    assert_same_weights(read_weights(tmp_path / "b.pth")["model"], averages)


def test_metadata_that_is_not_ours(tmp_path):
    package = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    package.save_file(TinyDetr().state_dict(), tmp_path / "f.safetensors", {"args": "{"})
    with pytest.raises(UserError, match="metadata is invalid"):
        read_weights(tmp_path / "f.safetensors")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_ids_of_the_rows_come_back(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    state = build(BOXES).state_dict()
    ids = [10, 20, "30", "cell", 50, 60, 70]
    categories = {30: "thirty", category_id_of("cell"): "blood cell"}
    checkpoint = {"model": state, "args": BOXES.flags(), "categories": categories}
    write_weights(path, {**checkpoint, "category_ids": ids})
    assert read_weights(path)["category_ids"] == ids
    loaded = from_file(str(path), {})
    assert loaded.category_ids == ids and loaded.categories == categories
    metadata = metadata_of(loaded)
    assert json.loads(metadata["category_ids"]) == ids
    assert json.loads(metadata["categories"]) == {"30": "thirty", "cell": "blood cell"}


def test_ids_of_the_rows_are_row_numbers_unless_given(tmp_path):
    write_checkpoint(tmp_path / "a.pth")
    loaded = from_file(str(tmp_path / "a.pth"), {})
    assert loaded.category_ids is None
    assert json.loads(metadata_of(loaded)["category_ids"]) == list(range(7))


def test_ids_that_do_not_fit_the_head(tmp_path):
    checkpoint = {"model": build(BOXES).state_dict(), "category_ids": [1, 2]}
    torch.save(checkpoint, tmp_path / "a.pth")
    with pytest.raises(UserError, match="category_ids must be a list of 7 ids"):
        from_file(str(tmp_path / "a.pth"), {"nheads": 4})


def test_entries_of_another_kind_are_left_out(tmp_path):
    """A tensor has no truth value."""
    odd = {"category_ids": torch.ones(2), "thresholds": torch.ones(2)}
    write_weights(tmp_path / "f.pth", {"model": {"w": torch.ones(1)}, **odd})
    assert not odd.keys() & torch.load(tmp_path / "f.pth", weights_only=True).keys()

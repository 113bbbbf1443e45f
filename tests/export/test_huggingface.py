"""Hugging Face's DETR, both ways."""

import dataclasses
import json

import pytest
import torch

from export.check import CheckFailedError, compare, padded_batches
from export.huggingface import load_huggingface_model, read_folder, run, write_folder
from export.huggingface_config import read_config
from export.huggingface_keys import from_huggingface, to_huggingface
from export.source import from_file
from export.wrapper import ExportWrapper
from tests.export.small_files import (
    BOXES,
    CATEGORIES,
    MASKS,
    SIZES,
    build,
    source,
    write_checkpoint,
)
from util.errors import UserError

LEARNED = dataclasses.replace(BOXES, position_embedding="learned", enc_layers=2)
DEEPER = dataclasses.replace(MASKS, backbone="resnet50")
DC5 = dataclasses.replace(BOXES, backbone="resnet50", dilation=True)
ALL = pytest.mark.parametrize("architecture", [BOXES, MASKS, LEARNED, DEEPER, DC5])


def assert_same_weights(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@ALL
def test_round_trip_is_bit_identical(tmp_path, architecture):
    given = source(architecture)
    write_folder(given, tmp_path)
    checkpoint = read_folder(tmp_path)
    assert_same_weights(checkpoint["model"], given.model.state_dict())
    assert checkpoint["args"] == architecture.flags()
    assert checkpoint["categories"] == CATEGORIES


@ALL
@pytest.mark.parametrize("timm", [True, False])
def test_keys_go_both_ways(architecture, timm):
    state = architecture.build().state_dict()
    theirs = to_huggingface(state, timm, "file")
    assert all(key.startswith(("detr.", "mask_head.", "bbox_attention.")) for key in theirs) == (
        architecture.masks
    )
    assert not any("in_proj" in key or "backbone.0" in key for key in theirs)
    assert_same_weights(from_huggingface(theirs, "file"), state)


@pytest.mark.parametrize("architecture", [BOXES, MASKS, LEARNED, DEEPER])
def test_their_model_gives_our_outputs(tmp_path, architecture):
    pytest.importorskip("transformers", reason="transformers is not installed")
    given = source(architecture)
    write_folder(given, tmp_path)
    theirs = load_huggingface_model(tmp_path)
    wrapper = ExportWrapper(given.model, raw=True).eval()
    for batch in padded_batches([(96, 128), (131, 70)], [1, 3]):
        assert compare(wrapper, theirs, *batch).largest() < 1e-4


def test_their_dilated_model_gives_our_outputs(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip(
        "timm", reason="timm is not installed; transformers has DC5 through it alone"
    )
    given = source(DC5)
    write_folder(given, tmp_path)
    wrapper = ExportWrapper(given.model, raw=True).eval()
    for batch in padded_batches([(131, 70)], [3]):
        assert compare(wrapper, load_huggingface_model(tmp_path), *batch).largest() < 1e-4


@pytest.mark.slow
def test_a_model_of_full_size_gives_our_outputs(tmp_path, capsys):
    pytest.importorskip("transformers", reason="transformers is not installed")
    argv = ["to", "--hub", "detr_resnet50_panoptic", "--output", str(tmp_path / "theirs")]
    assert run([*argv, "--check_sizes", "480x640", "--check_batches", "1"]) == 0
    out = capsys.readouterr().out
    assert "tensors are identical after a round trip" in out and "480x640, batch 1: scores" in out


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("architecture", [BOXES, MASKS])
def test_what_they_save_again_is_read(tmp_path, architecture):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    given = source(architecture)
    write_folder(given, tmp_path)
    kind = json.loads((tmp_path / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, kind).from_pretrained(tmp_path, local_files_only=True)
    model.save_pretrained(tmp_path / "again")
    checkpoint = read_folder(tmp_path / "again")
    assert_same_weights(checkpoint["model"], given.model.state_dict())
    assert checkpoint["args"] == architecture.flags()
    assert checkpoint["categories"] == CATEGORIES


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_their_processor_prepares_images_as_we_do(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    write_folder(source(BOXES), tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, local_files_only=True)
    assert "Detr" in type(processor).__name__
    assert dict(processor.size) == {"shortest_edge": 800, "longest_edge": 1333}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_command_goes_there_and_back(tmp_path, suffix, capsys):
    start, folder, end = tmp_path / "a.pth", tmp_path / "theirs", tmp_path / f"b{suffix}"
    model = write_checkpoint(start)
    (tmp_path / "flags").write_text(f"--output {folder} {' '.join(SIZES)}  # as a shell reads it")
    assert run(["to", "--checkpoint", str(start), f"@{tmp_path / 'flags'}"]) == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert run(["from", str(folder), "--output", str(end)]) == 0
    num_tensors = len(model.state_dict())
    assert f"{num_tensors} tensors are identical after a round trip" in capsys.readouterr().out
    back = from_file(str(end), {})
    assert_same_weights(back.model.state_dict(), model.state_dict())
    assert back.architecture == BOXES


def test_a_model_of_theirs_that_differs_leaves_no_folder(tmp_path, capsys, monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed")
    write_checkpoint(tmp_path / "a.pth")
    other = build(dataclasses.replace(BOXES, nheads=2))
    monkeypatch.setattr(
        "export.huggingface.load_huggingface_model",
        lambda folder: ExportWrapper(other, raw=True).eval(),
    )
    argv = ["to", "--checkpoint", str(tmp_path / "a.pth"), "--output", str(tmp_path / "theirs")]
    assert run([*argv, *SIZES]) == 1
    assert "check failed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_places_that_cannot_be_written(tmp_path, capsys):
    write_checkpoint(tmp_path / "a.pth")
    argv = ["to", "--checkpoint", str(tmp_path / "a.pth"), "--output"]
    assert run([*argv, str(tmp_path / "a.pth")]) == 2
    assert run([*argv, str(tmp_path / "no" / "folder")]) == 2
    file, folder = capsys.readouterr().err.splitlines()
    assert "is a file" in file and "its folder does not exist" in folder


def test_a_place_is_looked_at_before_the_work(tmp_path, capsys):
    for place, words in ((tmp_path, "is a folder"), (tmp_path / "no" / "f.pth", "does not exist")):
        assert run(["from", str(tmp_path / "none"), "--output", str(place)]) == 2
        assert words in capsys.readouterr().err


def test_keys_that_their_model_does_not_take(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    write_folder(source(BOXES), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "decoder_layers": 2}))
    with pytest.raises(CheckFailedError, match="missing or unexpected keys"):
        load_huggingface_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pre_norm": True}, "post-norm layers only"),
        ({"masks": True, "nheads": 4}, "multiple of 8 channels"),
        ({"backbone": "wide_resnet50_2"}, "no groups or wide blocks"),
        ({"backbone": "resnext50_32x4d"}, "no groups or wide blocks"),
    ],
)
def test_models_that_they_do_not_have(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        write_folder(source(BOXES, **changes), tmp_path)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "yolos"}, "model_type is yolos"),
        ({"model_type": "detr", "decoder_attention_heads": 4}, "as many heads"),
        ({"model_type": "detr", "activation_function": "gelu"}, "gelu"),
    ],
)
def test_configurations_that_are_not_ours(config, words):
    with pytest.raises(UserError, match=words):
        read_config(config, "config.json")


@pytest.mark.parametrize("config", [{"dilation": True}, {"backbone_config": {"output_stride": 16}}])
def test_dilation_has_two_names(config):
    told, categories, ids = read_config({"model_type": "detr", **config}, "config.json")
    assert told["dilation"] and categories == {} and ids is None


def test_classes_without_a_name():
    config = {"model_type": "detr", "id2label": {"0": "N/A", "1": "cat", "2": "LABEL_2"}}
    assert read_config(config, "config.json")[1] == {1: "cat"}


def test_ids_of_the_rows_there_and_back(tmp_path):
    ids = [1, 3, "5", "cell", 60, 70, 80]
    write_folder(dataclasses.replace(source(BOXES), category_ids=ids), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert list(config["id2label"].values())[:3] == ["cat", "dog", "LABEL_2"]
    checkpoint = read_folder(tmp_path)
    assert checkpoint["category_ids"] == ids and checkpoint["categories"] == CATEGORIES


def test_ids_that_do_not_fit_the_labels():
    config = {"model_type": "detr", "id2label": {"0": "cat"}, "category_ids": [1, 2]}
    with pytest.raises(UserError, match=r"config.json: category_ids must be a list of 1 ids"):
        read_config(config, "config.json")


def test_folders_that_lack_something(tmp_path, capsys):
    argv = ["from", str(tmp_path), "--output", str(tmp_path / "f.pth")]
    assert run(argv) == 2
    write_folder(source(BOXES), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert run(argv) == 2
    (tmp_path / "config.json").write_text("{")
    assert run(argv) == 2
    (tmp_path / "config.json").write_text("[]")
    assert run(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    for line, words in zip(
        lines, ("cannot be read", "has neither", "is not JSON", "not a JSON object"), strict=True
    ):
        assert words in line


def test_their_older_weights_file_is_read(tmp_path):
    given = source(BOXES)
    write_folder(given, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    theirs = to_huggingface(given.model.state_dict(), False, "file")
    torch.save(theirs, tmp_path / "pytorch_model.bin")
    assert_same_weights(read_folder(tmp_path)["model"], given.model.state_dict())


def test_weights_that_are_not_all_there(tmp_path):
    given = source(BOXES)
    write_folder(given, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    theirs = to_huggingface(given.model.state_dict(), False, "file")
    theirs.pop("model.decoder.layers.0.self_attn.v_proj.weight")
    torch.save(theirs, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="in_proj_weight is"):
        read_folder(tmp_path)

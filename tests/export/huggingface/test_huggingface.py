"""Hugging Face's DETR, both ways."""

import dataclasses
import errno
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.formats.held_out import ImageSplit
from datasets.loading.byte_images import IMAGENET, Normalization
from export.check import CheckFailedError, compare, padded_batches
from export.huggingface.command import run
from export.huggingface.config import read_config
from export.huggingface.folder import (
    load_huggingface_model,
    read_folder,
    read_preprocessor,
    write_folder,
)
from export.huggingface.keys import from_huggingface, to_huggingface
from export.source import from_file
from export.weights import read_weights, write_weights
from export.wrapper import ExportWrapper
from models.postprocess import PostProcess
from tests.export.small_files import (
    BOXES,
    CATEGORIES,
    MASKS,
    NARROW_BOXES,
    NARROW_MASKS,
    SIZES,
    build,
    source,
    write_checkpoint,
)
from util.errors import UserError

LEARNED = dataclasses.replace(BOXES, position_embedding="learned", enc_layers=2)
LEARNED_MASKS = dataclasses.replace(MASKS, position_embedding="learned")
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
    checkpoint, model = read_folder(tmp_path)
    assert_same_weights(model.state_dict(), given.model.state_dict())
    assert_same_weights(checkpoint["model"], given.model.state_dict())
    transforms = {"scales": [800], "max_size": 1333, **IMAGENET.flags()}
    assert checkpoint["args"] == architecture.flags() | transforms
    assert checkpoint["categories"] == CATEGORIES


def test_held_out_images_come_back_as_hashes(tmp_path):
    checkpoint = {"model": build(BOXES).state_dict(), "args": BOXES.flags()}
    split = ImageSplit(frozenset({"a.jpg", "b.jpg"}), frozenset({"c.jpg"}))
    torch.save({**checkpoint, "split": split.saved()}, tmp_path / "in.pth")
    folder, out = tmp_path / "theirs", str(tmp_path / "out.pth")
    folder.mkdir()
    write_folder(from_file(str(tmp_path / "in.pth"), {}), folder)
    assert "a.jpg" not in (folder / "config.json").read_text()
    sizes = ["--check_sizes", "96x128", "--check_batches", "1"]
    assert run(["from", str(folder), "--output", out, *sizes]) == 0
    found = ImageSplit.read(read_weights(out)["split"])
    assert found.of_names(["c.jpg", "a.jpg", "b.jpg"]) == split


@ALL
@pytest.mark.parametrize("timm", [True, False])
def test_keys_go_both_ways(architecture, timm):
    state = build(architecture).state_dict()
    theirs = to_huggingface(state, timm, "file")
    assert all(key.startswith(("detr.", "mask_head.", "bbox_attention.")) for key in theirs) == (
        architecture.masks
    )
    assert not any("in_proj" in key or "backbone.0" in key for key in theirs)
    for name in ("model.position_embedding.", "model.backbone.position_embedding."):
        assert sum(name in key for key in theirs) == 2 * (architecture is LEARNED)
    assert_same_weights(from_huggingface(theirs, "file"), state)


@pytest.mark.parametrize("architecture", [BOXES, MASKS, LEARNED, LEARNED_MASKS, DEEPER])
def test_their_model_gives_our_outputs(tmp_path, architecture):
    pytest.importorskip("transformers", reason="transformers is not installed")
    given = source(architecture)
    write_folder(given, tmp_path)
    theirs = load_huggingface_model(tmp_path, architecture.masks)
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
        assert compare(wrapper, load_huggingface_model(tmp_path, False), *batch).largest() < 1e-4


@pytest.mark.slow
def test_a_model_of_full_size_gives_our_outputs(tmp_path, capsys):
    pytest.importorskip("transformers", reason="transformers is not installed")
    argv = ["to", "--hub", "detr_resnet50_panoptic", "--output", str(tmp_path / "theirs")]
    assert run([*argv, "--check_sizes", "480x640", "--check_batches", "1"]) == 0
    out = capsys.readouterr().out
    assert "tensors are identical after a round trip" in out and "480x640, batch 1: scores" in out


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("architecture", [BOXES, MASKS, LEARNED])
def test_what_they_save_again_is_read(tmp_path, architecture):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    given = dataclasses.replace(source(architecture), is_thing={1: True, 3: False})
    write_folder(given, tmp_path)
    kind = json.loads((tmp_path / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, kind).from_pretrained(tmp_path, local_files_only=True)
    model.save_pretrained(tmp_path / "again")
    checkpoint, _ = read_folder(tmp_path / "again")
    assert_same_weights(checkpoint["model"], given.model.state_dict())
    panoptic = {"panoptic_threshold": 0.85} if architecture.masks else {}
    assert checkpoint["args"] == architecture.flags() | panoptic
    assert checkpoint["categories"] == CATEGORIES
    assert checkpoint["is_thing"] == {1: True, 3: False}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_their_processor_works_as_ours_and_comes_back(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    normalization = Normalization([0.5, 0.4, 0.3], [0.2, 0.3, 0.25])
    transforms = {"short_side": 64, "max_size": 90, "normalization": normalization}
    given = dataclasses.replace(source(NARROW_BOXES), **transforms)
    write_folder(given, tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, local_files_only=True)
    assert "Detr" in type(processor).__name__
    pixels = np.random.default_rng(0).integers(0, 256, (9, 15, 3), np.uint8)
    image = Image.fromarray(pixels).resize((150, 90), Image.Resampling.BICUBIC)
    prepared = processor(images=image, return_tensors="pt")
    ours = given.batch_of(image)
    assert prepared["pixel_values"].shape == ours.shape and prepared["pixel_mask"].all()
    # Some versions resize with torchvision, which rounds other pixels than Pillow.
    difference = (prepared["pixel_values"] - ours).abs()
    assert difference.max() < 0.06 and difference.mean() < 0.01

    with torch.no_grad():
        outputs = given.model(ours)
    (expected,) = PostProcess()(outputs, torch.tensor([[90, 150]]))
    theirs = SimpleNamespace(logits=outputs["pred_logits"], pred_boxes=outputs["pred_boxes"])
    (found,) = processor.post_process_object_detection(theirs, 0.0, [(90, 150)])
    for name in ("scores", "labels", "boxes"):
        torch.testing.assert_close(found[name], expected[name])

    processor.save_pretrained(tmp_path)
    flags = {"scales": [64], "max_size": 90, **normalization.flags()}
    assert read_folder(tmp_path)[0]["args"] == NARROW_BOXES.flags() | flags


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_command_goes_there_and_back(tmp_path, suffix, capsys):
    start, folder, end = tmp_path / "a.pth", tmp_path / "theirs", tmp_path / f"b{suffix}"
    model = write_checkpoint(start, NARROW_BOXES)
    (tmp_path / "flags").write_text(f"--output {folder} {' '.join(SIZES)}  # as a shell reads it")
    assert run(["to", "--checkpoint", str(start), f"@{tmp_path / 'flags'}"]) == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert run(["from", str(folder), "--output", str(end), *SIZES]) == 0
    num_tensors = len(model.state_dict())
    assert f"{num_tensors} tensors are identical after a round trip" in capsys.readouterr().out
    back = from_file(str(end), {})
    assert_same_weights(back.model.state_dict(), model.state_dict())
    assert back.architecture == NARROW_BOXES
    assert (back.short_side, back.max_size) == (96, 160)


def test_a_model_of_theirs_that_differs_leaves_no_folder(tmp_path, capsys, monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed")
    write_checkpoint(tmp_path / "a.pth", NARROW_BOXES)
    other = build(dataclasses.replace(NARROW_BOXES, nheads=2))
    monkeypatch.setattr(
        "export.huggingface.command.load_huggingface_model",
        lambda folder, masks: ExportWrapper(other, raw=True).eval(),
    )
    argv = ["to", "--checkpoint", str(tmp_path / "a.pth"), "--output", str(tmp_path / "theirs")]
    assert run([*argv, *SIZES]) == 1
    assert "check failed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
    (tmp_path / "theirs").mkdir()
    write_folder(source(NARROW_BOXES), tmp_path / "theirs")
    assert run(["from", argv[4], "--output", str(tmp_path / "b.pth"), *SIZES]) == 1
    assert "check failed" in capsys.readouterr().err and not (tmp_path / "b.pth").exists()


def test_places_that_cannot_be_written(tmp_path, capsys):
    write_checkpoint(tmp_path / "a.pth", NARROW_BOXES)
    argv = ["to", "--checkpoint", str(tmp_path / "a.pth"), "--output"]
    assert run([*argv, str(tmp_path / "a.pth")]) == 2
    assert run([*argv, str(tmp_path / "no" / "folder")]) == 2
    argv[2] = str(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").touch()
    assert run([*argv, str(tmp_path)]) == 2
    file, folder, own = capsys.readouterr().err.splitlines()
    assert "is a file" in file and "its folder does not exist" in folder
    assert "model.safetensors is the file that is read" in own


def test_links_and_mount_points_lead_to_another_disk(tmp_path, monkeypatch):
    """A rename from another folder fails there, and would replace the links in a cache."""
    write_checkpoint(tmp_path / "a.pth", NARROW_BOXES)
    disk, blob = tmp_path / "disk", tmp_path / "blob"
    disk.mkdir()
    blob.write_text("old")
    (disk / "config.json").symlink_to(blob)
    (tmp_path / "link").symlink_to(disk)
    real = os.replace

    def within_a_folder(source, target):
        if os.path.dirname(source) != os.path.dirname(target):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target)

    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, within_a_folder)
    argv = ["to", "--checkpoint", str(tmp_path / "a.pth"), "--output", str(tmp_path / "link")]
    assert run([*argv, *SIZES]) == 0
    assert {path.name for path in disk.iterdir()} == {
        *("config.json", "model.safetensors", "preprocessor_config.json")
    }
    assert json.loads(blob.read_text())["model_type"] == "detr"


def test_a_place_is_looked_at_before_the_work(tmp_path, capsys):
    for place, words in ((tmp_path, "is a folder"), (tmp_path / "no" / "f.pth", "does not exist")):
        assert run(["from", str(tmp_path / "none"), "--output", str(place)]) == 2
        assert words in capsys.readouterr().err


def test_keys_that_their_model_does_not_take(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    write_folder(source(NARROW_BOXES), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "decoder_layers": 2}))
    with pytest.raises(CheckFailedError, match="missing or unexpected keys"):
        load_huggingface_model(tmp_path, False)


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
        write_folder(source(NARROW_BOXES, **changes), tmp_path)


RESNET = {"model_type": "resnet"}
TIMM = {"model_type": "timm_backbone", "backbone": "resnet50"}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "yolos"}, "model_type is 'yolos', expected detr"),
        ({"decoder_attention_heads": 4}, "the same number"),
        ({"activation_function": "gelu"}, "activation_function is 'gelu'"),
        ({"num_channels": 4}, "num_channels is 4"),
        ({"backbone_config": {**RESNET, "hidden_act": "gelu"}}, "hidden_act is 'gelu'"),
        ({"backbone_config": {**RESNET, "downsample_in_bottleneck": True}}, "in_bottleneck is"),
        ({"backbone_config": {**RESNET, "downsample_in_first_stage": True}}, "first_stage is"),
        ({"backbone_config": {"model_type": "swin"}}, "model_type is 'swin', expected resnet"),
        ({"backbone_config": {**TIMM, "backbone": "resnetblur50.x"}}, "'resnetblur50.x' of timm"),
        ({"backbone_config": {**TIMM, "output_stride": 8}}, "output_stride is 8"),
        ({"backbone": "resnetblur50"}, "'resnetblur50' of timm is not a ResNet of torchvision"),
        ({"backbone_kwargs": {"output_stride": 8}}, "output_stride is 8"),
        ({"backbone_kwargs": {"aa_layer": "blur"}}, "backbone_kwargs has aa_layer"),
        ({"use_timm_backbone": False, "backbone": "my/resnet"}, "backbone is 'my/resnet'"),
        ({"encoder_attention_heads": [8]}, r"heads is \[8\], not of type int"),
        ({"backbone_config": ["resnet"]}, "backbone_config is .* not of type dict"),
        ({"id2label": [1]}, "id2label is .* not of type dict"),
        ({"id2label": {"cat": 1}}, "id2label has ids that are not numbers"),
        ({"id2label": {"-1": "cat"}}, "id2label has ids that are not numbers"),
    ],
)
def test_configurations_that_are_not_ours(config, words):
    with pytest.raises(UserError, match=f"config.json: .*{words}"):
        read_config({"model_type": "detr", **config}, "config.json")


@pytest.mark.parametrize(
    ("config", "dilation"),
    [
        ({"dilation": True}, True),
        ({"backbone": "resnet50.a1_in1k", "dilation": False}, False),
        ({"backbone_kwargs": {"output_stride": 16, "out_indices": [1, 2, 3, 4]}}, True),
        ({"backbone_config": {**TIMM, "output_stride": 16}}, True),
        ({"backbone_config": TIMM}, False),
        # The ResNet of transformers has no dilation, whatever the configuration says.
        ({"backbone_config": RESNET, "use_timm_backbone": False, "dilation": True}, False),
    ],
)
def test_dilation_has_several_names(config, dilation):
    found, classes = read_config({"model_type": "detr", **config}, "config.json")
    assert found["dilation"] == dilation
    assert classes == {"categories": {}, "is_thing": {}, "category_ids": None, "unused_ids": []}


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        ({"size": {"shortest_edge": 400, "longest_edge": 666}}, ([400], 666)),
        ({"size": 400, "max_size": 666}, ([400], 666)),
        ({"size": 800}, ([800], 1333)),
        ({}, None),
    ],
)
def test_image_sizes_are_carried(config, sizes):
    found = read_preprocessor(config, "p.json")
    assert found == ({} if sizes is None else {"scales": sizes[0], "max_size": sizes[1]})


@pytest.mark.parametrize(
    ("config", "normalization"),
    [
        ({"image_mean": [0.5, 0, 1]}, {"image_mean": [0.5, 0.0, 1.0]}),
        ({"image_std": [0.2, 0.3, 0.4]}, {"image_std": [0.2, 0.3, 0.4]}),
        ({"do_normalize": False}, {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}),
        ({"do_normalize": True, "image_mean": None}, {}),
    ],
)
def test_the_normalization_is_carried(config, normalization):
    assert read_preprocessor(config, "p.json") == normalization


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"image_mean": 0.5}, "--image_mean must be three numbers"),
        ({"image_std": [1]}, "--image_std must be three numbers"),
        ({"image_std": [1, 1, 0]}, "each value of --image_std must lie between 0 and 1000"),
        ({"image_mean": [0, 0, 10**400]}, "each value of --image_mean must lie between"),
        ({"do_normalize": 0}, "do_normalize is 0, not of type bool"),
        ({"do_resize": False}, "do_resize is False"),
        ({"rescale_factor": 1}, "rescale_factor is 1, expected 0.0039"),
        ({"resample": 3}, "resample is 3, expected 2"),
        ({"size": {"height": 640, "width": 640}}, "need a shortest_edge and a longest_edge"),
        ({"size": {"shortest_edge": 800}}, "need a shortest_edge and a longest_edge"),
        ({"size": {"shortest_edge": "800", "longest_edge": 1}}, "'800', not of type int"),
    ],
)
def test_transforms_that_are_not_ours(config, words):
    with pytest.raises(UserError, match=f"p.json: .*{words}"):
        read_preprocessor(config, "p.json")


def test_the_check_finds_what_no_file_says(tmp_path, monkeypatch, capsys):
    """A difference that only their model knows."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    write_folder(source(NARROW_BOXES), tmp_path)
    real = transformers.DetrForObjectDetection.forward

    def other(self, pixel_values, pixel_mask):
        return real(self, pixel_values=pixel_values * 2, pixel_mask=pixel_mask)

    monkeypatch.setattr(transformers.DetrForObjectDetection, "forward", other)
    assert run(["from", str(tmp_path), "--output", str(tmp_path / "f.pth"), *SIZES]) == 1
    assert "check failed: differs from PyTorch" in capsys.readouterr().err
    assert not (tmp_path / "f.pth").exists()


def test_classes_without_a_name():
    config = {"model_type": "detr", "id2label": {"0": "N/A", "1": "cat", "2": "LABEL_2"}}
    classes = read_config(config, "config.json")[1]
    assert classes["categories"] == {1: "cat"} and classes["unused_ids"] == [0]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_label_with_a_generated_name_may_be_a_class(tmp_path, capsys, suffix):
    theirs, back = tmp_path / "theirs", tmp_path / f"back{suffix}"
    theirs.mkdir()
    write_folder(dataclasses.replace(source(NARROW_BOXES), categories={}), theirs)
    config = json.loads((theirs / "config.json").read_text())
    for names, unused in (({"1": "cat"}, set()), ({"1": "cat", "3": "N/A"}, {3})):
        changed = {**config, "id2label": config["id2label"] | names}
        (theirs / "config.json").write_text(json.dumps(changed))
        write_weights(back, read_folder(theirs)[0])
        loaded = from_file(str(back), {})
        assert loaded.categories == {1: "cat"} and loaded.unused_ids == unused
        assert loaded.has_class(0) and loaded.has_class(3) == (not unused)
        printed = f"{back}: rows of the classification head without a class, not predicted: 3\n"
        assert (printed in capsys.readouterr().out) == bool(unused)


def test_rows_that_were_not_trained_there_and_back(tmp_path):
    given = dataclasses.replace(source(NARROW_BOXES), unused_ids=frozenset({0, 2}))
    write_folder(given, tmp_path)
    assert read_folder(tmp_path)[0]["unused_ids"] == [0, 2]


def test_ids_and_things_there_and_back(tmp_path):
    ids, is_thing = [1, 3, "5", "cell", 60, 70, 80], {1: True, 3: False}
    given = dataclasses.replace(source(NARROW_BOXES), category_ids=ids, is_thing=is_thing)
    write_folder(given, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert list(config["id2label"].values())[:3] == ["cat", "dog", "LABEL_2"]
    checkpoint, _ = read_folder(tmp_path)
    assert checkpoint["category_ids"] == ids and checkpoint["categories"] == CATEGORIES
    assert checkpoint["is_thing"] == is_thing


def test_thresholds_there_and_back(tmp_path):
    known = {"is_thing": {1: True}, "best_threshold": 0.75, "segment_threshold": 0.6}
    (tmp_path / "theirs").mkdir()
    write_folder(dataclasses.replace(source(NARROW_MASKS), **known), tmp_path / "theirs")
    write_weights(tmp_path / "back.pth", read_folder(tmp_path / "theirs")[0])
    back = from_file(str(tmp_path / "back.pth"), {})
    assert back.is_panoptic
    assert (back.best_threshold, back.segment_threshold) == (0.75, 0.6)


@pytest.mark.parametrize("value", [1.5, True, "0.5", [0.5], float("nan")])
@pytest.mark.parametrize("name", ["best_f1_threshold", "panoptic_threshold"])
def test_thresholds_that_are_no_scores(name, value):
    with pytest.raises(UserError, match=f"config.json: {name} is .*, not a score from 0 to 1"):
        read_config({"model_type": "detr", name: value}, "config.json")


def test_a_label_that_no_memory_could_count_to():
    config = {"model_type": "detr", "id2label": {"1000000000000": "cat"}}
    assert read_config(config, "config.json")[1]["categories"] == {10**12: "cat"}


def test_ids_that_do_not_fit_the_labels():
    config = {"model_type": "detr", "id2label": {"0": "cat"}, "category_ids": [1, 2]}
    with pytest.raises(UserError, match=r"config.json: category_ids must be a list of 1 ids"):
        read_config(config, "config.json")


def test_folders_that_lack_something(tmp_path, capsys):
    argv = ["from", str(tmp_path), "--output", str(tmp_path / "f.pth")]
    assert run(argv) == 2
    write_folder(source(NARROW_BOXES), tmp_path)
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
    given = source(NARROW_BOXES)
    write_folder(given, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    theirs = to_huggingface(given.model.state_dict(), False, "file")
    torch.save(theirs, tmp_path / "pytorch_model.bin")
    assert_same_weights(read_folder(tmp_path)[0]["model"], given.model.state_dict())


def test_weights_that_are_not_all_there(tmp_path):
    given = source(NARROW_BOXES)
    write_folder(given, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    theirs = to_huggingface(given.model.state_dict(), False, "file")
    theirs.pop("model.decoder.layers.0.self_attn.v_proj.weight")
    torch.save(theirs, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="in_proj_weight is"):
        read_folder(tmp_path)

"""The model that flags name."""

import argparse
import dataclasses
import math

import pytest
import torch

import hubconf
from export.source import HUB_MODELS, add_model_flags, from_file, from_hub, source_of
from export.weights import write_weights
from models.demo import MinimalDETR
from models.released.coco_categories import THING_NAMES
from models.released.zoo import RELEASED_MODELS
from tests.export.small_files import (
    BOXES,
    CATEGORIES,
    MASKS,
    NARROW_BOXES,
    build,
    write_checkpoint,
)
from util.cli.command_line import ArgumentParser
from util.errors import UserError

NUM_KEYS = {
    ("resnet50", False): 458,
    ("resnet50", True): 490,
    ("resnet101", False): 713,
    ("resnet101", True): 745,
}


def source_for(*argv):
    parser = ArgumentParser("export")
    add_model_flags(parser)
    return source_of(parser.parse_args([str(arg) for arg in argv]))


def test_all_hub_models_are_known():
    assert set(HUB_MODELS) < set(RELEASED_MODELS) and len(HUB_MODELS) == 7


@pytest.mark.parametrize("name", HUB_MODELS)
def test_a_hub_model_with_random_weights_is_the_one_of_hubconf(name):
    with torch.device("meta"):
        source = from_hub(name, None)
    released = RELEASED_MODELS[name]
    assert source.architecture.backbone == released.backbone
    assert source.architecture.dilation == released.dilation
    assert source.architecture.masks == released.masks
    assert source.architecture.num_classes == released.num_classes
    assert source.categories == released.category_names
    assert len(source.model.state_dict()) == NUM_KEYS[released.backbone, released.masks]


def test_the_minimal_model_with_random_weights_or_those_of_a_file(tmp_path):
    random = from_hub("detr_demo", None)
    assert random.is_minimal and random.num_classes == 91 and random.categories[1] == "person"
    assert random.architecture.largest_side == 1600 and not random.model.training
    torch.manual_seed(1)
    model = MinimalDETR(4)
    torch.save(model.state_dict(), tmp_path / "demo.pth")
    source = from_hub("detr_demo", str(tmp_path / "demo.pth"))
    assert source.num_classes == 4 and source.categories == {}
    assert torch.equal(source.model.query_pos, model.query_pos)
    write_checkpoint(tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: is not a detr_demo file \(no linear_class\)"):
        from_hub("detr_demo", str(tmp_path / "other.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("architecture", [BOXES, MASKS])
def test_a_checkpoint_tells_its_model(tmp_path, architecture, suffix, capsys):
    path = tmp_path / f"mine{suffix}"
    model = write_checkpoint(path, architecture)
    source = source_for("--checkpoint", path)
    assert source.name == "mine" and source.architecture == architecture
    assert source.categories == CATEGORIES
    assert source.unused_ids == frozenset()
    assert (source.short_side, source.max_size) == (96, 160)
    assert not source.model.training
    weights = source.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert capsys.readouterr().out == ""


def write_bare(path, state):
    torch.save({"model": state}, path)
    return path


def test_a_file_without_flags_takes_them_from_the_command_line(tmp_path, capsys):
    path = write_bare(tmp_path / "bare.pth", build(BOXES).state_dict())
    source = source_for("--checkpoint", path, "--nheads", 2)
    assert (source.architecture.nheads, source.architecture.dilation) == (2, False)
    assert (source.short_side, source.max_size) == (800, 1333)
    assert "does not store whether it is a DC5 model" in capsys.readouterr().out


def test_dilation_from_the_command_line(tmp_path, capsys):
    deeper = dataclasses.replace(BOXES, backbone="resnet50")
    path = write_bare(tmp_path / "dc5.pth", build(deeper).state_dict())
    assert source_for("--checkpoint", path, "--dilation", "--nheads", 4).architecture.dilation
    assert capsys.readouterr().out == ""


def test_heads_are_read_from_the_mask_head(tmp_path, capsys):
    for nheads in (4, 8):
        masks = dataclasses.replace(MASKS, nheads=nheads)
        path = write_bare(tmp_path / "masks.pth", build(masks).state_dict())
        assert source_for("--checkpoint", path).architecture == masks
        assert "attention heads" not in capsys.readouterr().out
    boxes = write_bare(tmp_path / "boxes.pth", build(BOXES).state_dict())
    assert source_for("--checkpoint", boxes).architecture.nheads == 8
    assert "does not store its number of attention heads: loaded with --nheads 8" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(("name", "value"), [("nheads", 4), ("dilation", True)])
def test_a_file_that_contradicts_the_hub_model(tmp_path, name, value):
    wide = dataclasses.replace(BOXES, **{"backbone": "resnet50", "nheads": 8, name: value})
    path = tmp_path / "mine.pth"
    write_checkpoint(path, wide)
    with pytest.raises(UserError, match=rf"mine.pth has {name} {value}, which contradicts"):
        source_for("--hub", "detr_resnet50", "--weights", path)
    assert getattr(source_for("--checkpoint", path).architecture, name) == value


def test_flags_that_contradict_the_file(tmp_path):
    write_checkpoint(tmp_path / "f.pth")
    for flags in (["--nheads", 2], ["--dilation"]):
        with pytest.raises(UserError, match=r"f.pth has (nheads 4|dilation False), which contra"):
            source_for("--checkpoint", tmp_path / "f.pth", *flags)
    assert source_for("--checkpoint", tmp_path / "f.pth", "--nheads", 4).architecture == BOXES


ANCHORS = dataclasses.replace(BOXES, query_design="anchor", cls_loss="focal")


@pytest.mark.parametrize(
    ("architecture", "flags", "loss", "is_told"),
    [
        (ANCHORS, [], "focal", True),
        (ANCHORS, ["--cls_loss", "ce"], "ce", False),
        (BOXES, [], "ce", False),
        (BOXES, ["--cls_loss", "focal"], "focal", False),
    ],
)
def test_the_loss_of_a_file_without_flags(tmp_path, capsys, architecture, flags, loss, is_told):
    path = write_bare(tmp_path / "bare.pth", build(architecture).state_dict())
    source = source_for("--checkpoint", path, "--nheads", 4, *flags)
    assert source.cls_loss == source.architecture.cls_loss == loss
    assert ("--cls_loss focal" in capsys.readouterr().out) == is_told
    source = from_file(str(path), {"nheads": 4, "cls_loss": loss})
    assert source.segment_threshold == (0.35 if loss == "focal" else 0.85)


def test_a_loss_that_contradicts_the_file(tmp_path):
    write_checkpoint(tmp_path / "new.pth", ANCHORS)
    with pytest.raises(UserError, match=r"new.pth has cls_loss focal, which contradicts"):
        source_for("--checkpoint", tmp_path / "new.pth", "--cls_loss", "ce")
    write_checkpoint(tmp_path / "old.pth")
    content = torch.load(tmp_path / "old.pth")
    del content["args"]["cls_loss"]
    torch.save(content, tmp_path / "old.pth")
    with pytest.raises(UserError, match=r"old.pth has cls_loss ce, which contradicts"):
        source_for("--checkpoint", tmp_path / "old.pth", "--cls_loss", "focal")


def test_a_released_file_is_known_by_its_name(tmp_path, capsys):
    deeper = dataclasses.replace(BOXES, backbone="resnet50", nheads=8, num_classes=91)
    released = RELEASED_MODELS["detr_resnet50_dc5"]
    source = source_for(
        "--checkpoint", write_bare(tmp_path / released.file, build(deeper).state_dict())
    )
    assert source.architecture.dilation and capsys.readouterr().out == ""
    assert source.categories == released.category_names


def test_weights_saved_from_distributed_training(tmp_path):
    state = {f"module.{key}": value for key, value in build(BOXES).state_dict().items()}
    path = write_bare(tmp_path / "ddp.pth", state)
    assert source_for("--checkpoint", path, "--nheads", 4).architecture == BOXES


@pytest.mark.parametrize("changes", [{"args": [1]}, {"categories": ["cat"]}, {"is_thing": None}])
def test_entries_of_another_kind_tell_nothing(tmp_path, changes):
    content = {"model": build(BOXES).state_dict(), "args": {}, "categories": {}, **changes}
    torch.save(content, tmp_path / "f.pth")
    source = source_for("--checkpoint", tmp_path / "f.pth")
    assert (source.categories, source.is_thing, source.architecture.nheads) == ({}, {}, 8)


@pytest.mark.parametrize(("num_classes", "names"), [(91, THING_NAMES), (7, {})])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_original_leaves_out_the_names_of_coco(tmp_path, num_classes, names, suffix):
    state = build(dataclasses.replace(BOXES, num_classes=num_classes)).state_dict()
    args = argparse.Namespace(dataset_file="coco", nheads=4, dilation=False)
    path = tmp_path / f"f{suffix}"
    write_weights(path, {"model": state, "args": args})
    assert from_file(str(path), {}).categories == names


def test_averaged_weights(tmp_path):
    last, averages = (build(BOXES).state_dict() for _ in range(2))
    averages["class_embed.bias"] += 1
    content = {"model": last, "args": BOXES.flags(), "is_thing": {1: True}}
    for name, ema in (("with.pth", averages), ("without.pth", None)):
        torch.save({**content, "ema": ema}, tmp_path / name)
    source = source_for("--checkpoint", tmp_path / "with.pth", "--ema")
    assert torch.equal(source.model.class_embed.bias, averages["class_embed.bias"])
    assert source.is_thing == {1: True}
    with pytest.raises(UserError, match=r"without\.pth: contains no EMA weights"):
        source_for("--checkpoint", tmp_path / "without.pth", "--ema")


def test_random_weights_are_reported(capsys):
    with torch.device("meta"):
        from_hub("detr_resnet50", None)
    assert "detr_resnet50: random weights; for trained weights" in capsys.readouterr().out


def test_weights_for_a_hub_model_may_have_other_classes(tmp_path):
    wide = dataclasses.replace(BOXES, backbone="resnet50", num_classes=3)
    path = write_bare(tmp_path / "mine.pth", build(wide).state_dict())
    source = source_for("--hub", "detr_resnet50_dc5", "--weights", path)
    assert source.name == "detr_resnet50_dc5"
    assert (source.architecture.dilation, source.architecture.num_classes) == (True, 3)
    with pytest.raises(UserError, match="needs the weights of a segmentation model"):
        source_for("--hub", "detr_resnet50_panoptic", "--weights", path)
    with pytest.raises(UserError, match="does not match the model"):
        source_for("--hub", "detr_resnet101", "--weights", path)


def test_released_weights_come_from_hubconf(monkeypatch):
    model = BOXES.build()
    asked = []
    monkeypatch.setattr(hubconf, "detr_resnet50", lambda **flags: asked.append(flags) or model)
    assert from_hub("detr_resnet50", "released").model is model
    assert asked == [{"pretrained": True}]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "either --hub NAME or --checkpoint FILE"),
        (("--hub", "detr_resnet50", "--checkpoint", "f"), "either --hub"),
        (("--checkpoint", "f", "--weights", "g"), "--weights is only used with --hub"),
        (("--hub", "detr_resnet50", "--dilation"), "are only used with --checkpoint"),
        (("--hub", "detr_resnet50", "--nheads", "4"), "are only used with --checkpoint"),
        (("--hub", "detr_resnet50", "--ema"), "--ema needs a file of your own"),
        (("--checkpoint", "/no/such/file.pth"), "cannot be read"),
        (("--checkpoint", "/no/such/file.safetensors"), "cannot be read"),
    ],
)
def test_mistakes_in_flags(argv, words):
    with pytest.raises(UserError, match=words):
        source_for(*argv)


def test_a_checkpoint_of_something_else(tmp_path):
    with pytest.raises(UserError, match="contains no DETR model"):
        from_file(str(write_bare(tmp_path / "f.pth", {"fc.weight": torch.ones(1)})), {})


@pytest.mark.parametrize("flags", [{"backbone": torch.ones(2)}, {"nheads": torch.ones(2)}])
def test_flags_of_a_file_that_are_no_values_of_flags(tmp_path, flags):
    torch.save({"model": build(NARROW_BOXES).state_dict(), "args": flags}, tmp_path / "f.pth")
    source = from_file(str(tmp_path / "f.pth"), {"nheads": 4})
    assert source.architecture == NARROW_BOXES


def test_a_dilation_that_is_no_switch(tmp_path):
    state = build(NARROW_BOXES).state_dict()
    torch.save({"model": state, "args": {"dilation": "no"}}, tmp_path / "f.pth")
    with pytest.raises(UserError, match="flag dilation is of type str, not bool"):
        from_file(str(tmp_path / "f.pth"), {"nheads": 4})


@pytest.mark.parametrize("penalty", ["4", True, -1.0, math.nan, math.inf])
def test_an_overlap_penalty_that_is_none(tmp_path, penalty):
    write_checkpoint(path := tmp_path / "f.pth", NARROW_BOXES)
    content = torch.load(path)
    content["args"]["overlap_penalty"] = penalty
    torch.save(content, path)
    with pytest.raises(UserError, match=r"flag overlap_penalty is .*, not a number >= 0"):
        from_file(str(path), {})


def test_the_overlap_penalty_of_a_file(tmp_path):
    write_checkpoint(path := tmp_path / "f.pth", dataclasses.replace(ANCHORS, overlap_penalty=2.5))
    source = from_file(str(path), {})
    assert source.architecture.overlap_penalty == source.model.overlap_penalty == 2.5


@pytest.mark.parametrize("loss", ["bce", ["ce"], 1])
def test_a_loss_that_does_not_exist(tmp_path, loss):
    write_checkpoint(path := tmp_path / "f.pth", NARROW_BOXES)
    content = torch.load(path)
    content["args"]["cls_loss"] = loss
    torch.save(content, path)
    with pytest.raises(UserError, match=r"flag cls_loss is .*, not ce or focal"):
        from_file(str(path), {})

"""Loading of weights that must fit, and error messages."""

import pytest
import torch

from models.weights import (
    load_frozen_weights,
    load_model_state,
    model_state,
)
from tests.util.tiny_detr import TinyDetr, TinySegmenter, same_weights
from util.errors import UserError


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_weights_of_a_checkpoint_or_a_bare_state_dict():
    state = {"weight": torch.ones(2)}
    assert model_state({"model": state, "epoch": 3}, "a.pth") == state
    assert model_state(state, "a.pth") == state
    with pytest.raises(UserError, match=r"a\.pth: has no weights .*its keys: epoch, lr"):
        model_state({"epoch": 3, "lr": 0.1}, "a.pth")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_strict_loading_loads_every_weight(prefix):
    theirs, ours = TinyDetr(), TinyDetr()
    load_model_state(ours, {prefix + k: v for k, v in theirs.state_dict().items()}, "a.pth")
    assert same_weights(ours, theirs)


@pytest.mark.parametrize(
    ("options", "difference", "flags"),
    [
        ({"classes": 91}, "class_embed.weight is (92, 8) in the file", "--num_classes 91"),
        ({"queries": 7}, "query_embed.weight is (7, 8) in the file", "--num_queries 7"),
        ({"width": 4}, "in_proj_weight is (12, 4) in the file", "--hidden_dim 4"),
        ({"layers": 3}, "encoder.layers.1.self_attn.in_proj_weight is only in", "--enc_layers 3"),
        ({"pre_norm": True}, "transformer.encoder.norm.weight is only in the file", "--pre_norm"),
        ({"channels": 6}, "backbone.0.body.conv1.weight is (6, 3", "another --backbone"),
    ],
)
def test_a_model_of_other_flags_names_them(options, difference, flags):
    state = TinyDetr(**options).state_dict()
    with pytest.raises(UserError, match=r"a\.pth does not match the model") as error:
        load_model_state(TinyDetr(), state, "a.pth")
    message = one_line(error)
    assert difference in message
    assert f"give {flags}, or --finetune a.pth" in message


def test_where_flags_do_not_help_none_is_named():
    state = TinyDetr(classes=9).state_dict()
    with pytest.raises(UserError, match=r"; give weights of the same architecture$") as error:
        load_model_state(TinyDetr(), state, "a.pth", flags_of_main=False)
    assert "--" not in one_line(error)


def test_every_difference_counts_but_only_the_first_are_listed():
    state = TinyDetr(classes=9, queries=9).state_dict()
    del state["backbone.0.body.conv1.bias"]
    with pytest.raises(UserError, match=r" and 2 more; give --num_classes 9 --num_queries 9 "):
        load_model_state(TinyDetr(), state, "a.pth")


def test_flags_of_masks_are_detected():
    state = {f"detr.{key}": value for key, value in TinyDetr().state_dict().items()}
    state["mask_head.lay1.weight"] = torch.ones(1)
    with pytest.raises(UserError, match="give --masks, or"):
        load_model_state(TinyDetr(), state, "a.pth")


def test_flags_of_a_segmentation_model_for_boxes():
    with pytest.raises(UserError, match="give no --masks, or"):
        load_model_state(TinySegmenter(), TinyDetr().state_dict(), "a.pth")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_frozen_weights_from_a_box_checkpoint(prefix):
    boxes, masks = TinyDetr(), TinySegmenter()
    head = masks.mask_head["lay1"].weight.detach().clone()
    state = {prefix + k: v for k, v in boxes.state_dict().items()}
    load_frozen_weights(masks, masks.detr, state, "a.pth")
    assert same_weights(masks.detr, boxes)
    assert torch.equal(masks.mask_head["lay1"].weight, head)


def test_frozen_weights_from_a_segmentation_checkpoint_bring_the_mask_head():
    theirs, ours = TinySegmenter(), TinySegmenter()
    load_frozen_weights(ours, ours.detr, theirs.state_dict(), "a.pth")
    assert same_weights(ours, theirs)


def test_frozen_weights_of_another_detector_are_a_mistake():
    masks = TinySegmenter()
    with pytest.raises(UserError, match="--num_queries 7"):
        load_frozen_weights(masks, masks.detr, TinyDetr(queries=7).state_dict(), "a.pth")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2).to_sparse(),
        torch.ones(2, dtype=torch.complex64),
        torch.ones(2, device="meta"),
        torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8),
    ],
    ids=["sparse", "complex", "meta", "quantized"],
)
def test_tensors_that_are_no_weights(tensor):
    with pytest.raises(UserError, match=r"f.pth: .w. is not a named, dense tensor of real numbers"):
        model_state({"model": {"w": tensor}}, "f.pth")

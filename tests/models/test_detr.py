"""The whole model: keys, inputs, outputs."""

import argparse

import pytest
import torch

import main
from models import build_model
from models.detr import MLP
from util.nested_tensor import NestedTensor, nested_tensor_from_tensor_list

TINY = (
    "--backbone resnet18 --backbone_weights none --hidden_dim 32 --nheads 4 --enc_layers 1 "
    "--dec_layers 3 --num_queries 6 --dim_feedforward 32 --device cpu"
)


def build(flags="", base=TINY):
    parser = argparse.ArgumentParser(parents=[main.get_args_parser()])
    torch.manual_seed(0)
    return build_model(parser.parse_args(f"{base} {flags}".split()))


def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 64, w, generator=generator) for w in (64, 96)]


def test_the_default_model_has_the_published_size():
    model, criterion, _ = build(base="--backbone_weights none --device cpu")
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == 41_302_368
    assert sum(p.numel() for p in model.parameters()) == 41_524_768
    keys = list(model.state_dict())
    assert len(keys) == 458
    assert keys[0] == "transformer.encoder.layers.0.self_attn.in_proj_weight"
    for key, shape in {
        "class_embed.weight": (92, 256),
        "bbox_embed.layers.2.bias": (4,),
        "query_embed.weight": (100, 256),
        "input_proj.weight": (256, 2048, 1, 1),
        "backbone.0.body.conv1.weight": (64, 3, 7, 7),
        "backbone.0.body.layer4.2.bn3.running_var": (2048,),
        "transformer.decoder.layers.5.multihead_attn.out_proj.bias": (256,),
    }.items():
        assert model.state_dict()[key].shape == shape
    assert len(criterion.weight_dict) == 18


def test_optimizer_states_are_numbered_as_in_released_files():
    rooms = [name.split(".")[0] for name, _ in build()[0].named_parameters()]
    assert list(dict.fromkeys(rooms)) == [
        *("transformer", "class_embed", "bbox_embed", "query_embed", "input_proj", "backbone"),
    ]


def test_outputs_of_all_layers():
    model, _, _ = build("--num_classes 7")
    logits = []
    model.class_embed.register_forward_hook(lambda module, args, output: logits.extend(output))
    outputs = model(nested_tensor_from_tensor_list(images()))
    assert outputs["pred_logits"].shape == (2, 6, 8)
    assert outputs["pred_boxes"].shape == (2, 6, 4)
    assert outputs["pred_boxes"].min() >= 0 and outputs["pred_boxes"].max() <= 1
    assert [sorted(layer) for layer in outputs["aux_outputs"]] == [
        ["pred_boxes", "pred_logits"]
    ] * 2
    in_order = [*outputs["aux_outputs"], outputs]
    for layer, expected in zip(in_order, logits, strict=True):
        assert torch.equal(layer["pred_logits"], expected)


def test_without_auxiliary_losses_the_result_is_the_same():
    (model, _, _), (plain, criterion, _) = build(), build("--no_aux_loss")
    plain.load_state_dict(model.state_dict())
    batch = nested_tensor_from_tensor_list(images())
    expected, found = model.eval()(batch), plain.eval()(batch)
    assert sorted(found) == ["pred_boxes", "pred_logits"]
    assert torch.allclose(expected["pred_boxes"], found["pred_boxes"], atol=1e-6)
    assert len(criterion.weight_dict) == 3


def test_kinds_of_input_agree():
    model = build()[0].eval()
    expected = model(nested_tensor_from_tensor_list(images()))["pred_boxes"]
    assert torch.equal(model(images())["pred_boxes"], expected)
    assert torch.equal(model(tuple(images()))["pred_boxes"], expected)
    stack = torch.stack([images()[0]] * 2)
    assert torch.equal(model(stack)["pred_boxes"], model(list(stack))["pred_boxes"])


def test_more_padding_changes_little():
    model = build()[0].double().eval()
    image = images()[0].double()
    padded = torch.zeros(1, 3, 128, 160).double()
    mask = torch.ones(1, 128, 160, dtype=torch.bool)
    padded[0, :, :64, :64] = image
    mask[0, :64, :64] = False
    alone, among = model([image]), model(NestedTensor(padded, mask))
    # Not exactly equal: at the border convolutions see what the padding has become.
    assert (alone["pred_boxes"] - among["pred_boxes"]).abs().max() < 0.05


def test_order_of_the_batch_does_not_matter():
    model = build()[0].double().eval()
    batch = [image.double() for image in images()]
    forward, backward = model(batch)["pred_boxes"], model(batch[::-1])["pred_boxes"]
    assert torch.allclose(forward, backward.flip(0))


@pytest.mark.parametrize(
    ("flags", "num_classes"),
    [
        ("", 91),
        ("--dataset_file coco_panoptic", 250),
        ("--dataset_file other", 20),
        ("--num_classes 3", 3),
    ],
)
def test_number_of_classes(flags, num_classes):
    model, criterion, _ = build(flags)
    assert model.class_embed.out_features == num_classes + 1 == criterion.num_classes + 1


@pytest.mark.parametrize("loss", ["ce", "focal"])
def test_weights_and_costs_are_those_of_the_flags(loss):
    costs = "--set_cost_class 2 --set_cost_bbox 3 --set_cost_giou 4"
    weights = "--cls_loss_coef 5 --bbox_loss_coef 6 --giou_loss_coef 7 --no_aux_loss"
    weights += {"ce": " --eos_coef 0.25", "focal": " --focal_alpha 0.75"}[loss]
    _, criterion, _ = build(f"--cls_loss {loss} {costs} {weights}")
    matcher = criterion.matcher
    assert (matcher.cost_class, matcher.cost_bbox, matcher.cost_giou) == (2, 3, 4)
    assert criterion.weight_dict == {"loss_ce": 5, "loss_bbox": 6, "loss_giou": 7}
    if loss == "ce":
        assert float(criterion.empty_weight[-1]) == 0.25
    else:
        assert criterion.alpha == matcher.alpha == 0.75


def test_mixed_precision_keeps_boxes_in_float32():
    model = build()[0]
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(images())
    assert outputs["pred_boxes"].dtype == outputs["pred_logits"].dtype == torch.float32


def test_mlp():
    mlp = MLP(3, 5, 2, 3)
    x = torch.randn(4, 3)
    first, second, third = mlp.layers
    assert torch.allclose(mlp(x), third(second(first(x).relu()).relu()))


@pytest.mark.parametrize("masks", [False, True])
def test_shapes_are_computed_without_memory(masks):
    """On the meta device, as by FLOP counters of large models; it has no autocast."""
    model = build("--no_aux_loss" + " --masks" * masks)[0].eval()
    expected = model(torch.rand(2, 3, 64, 96))
    found = model.to("meta")(torch.rand(2, 3, 64, 96, device="meta"))
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}
    assert all(value.is_meta for value in found.values())


def test_the_heads_are_in_float32_after_a_transformer_in_bfloat16():
    model, _, _ = build()
    states = torch.randn(3, 2, 6, 32)
    expected = model.predict(states.bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model.predict(states.bfloat16())
    assert out["pred_boxes"].dtype == torch.float32
    assert torch.equal(out["pred_logits"], expected["pred_logits"])


@torch.no_grad()
def test_a_model_in_bfloat16_stays_in_it():
    model = build()[0].eval().bfloat16()
    out = model(torch.rand(1, 3, 64, 64, dtype=torch.bfloat16))
    assert out["pred_logits"].dtype == out["pred_boxes"].dtype == torch.bfloat16

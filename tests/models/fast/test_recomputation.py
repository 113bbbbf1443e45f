"""Activation checkpointing, against a training step that keeps its activations."""

import copy
import io

import pytest
import torch
from torch import nn

from models.fast.folded_norm import fold_frozen_norms
from models.fast.recomputation import (
    RecomputedAnchorDecoderLayer,
    RecomputedStage,
    recompute_activations,
)
from tests.models.anchor.small_anchor_models import build_anchor_detr
from tests.models.small_models import build_segmenter, images


def pair(**options):
    model = build_segmenter(**options).detr.train()
    recomputed = copy.deepcopy(model)
    recompute_activations(recomputed)
    return model, recomputed


def gradients(model, precision="off"):
    """Gradients of a step with dropout, and the state of the random generator after it."""
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        outputs = model(images((32, 48), (35, 40)))
    (outputs["pred_logits"].float().square().mean() + outputs["pred_boxes"].mean()).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**found, "random state": torch.get_rng_state()}


@pytest.mark.parametrize("precision", ["off", "bf16"])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_gradients_are_the_same_to_the_last_bit(backbone, precision):
    model, recomputed = pair(backbone=backbone)
    for each in (model, recomputed):
        fold_frozen_norms(each)
    kept, again = gradients(model, precision), gradients(recomputed, precision)
    assert kept.keys() == again.keys() and len(kept) > 50
    assert [name for name in kept if not torch.equal(again[name], kept[name])] == []


def test_layers_of_anchor_queries_too():
    model = build_anchor_detr().train()
    recomputed = copy.deepcopy(model)
    recompute_activations(recomputed)
    layers = recomputed.transformer.decoder.layers
    assert {type(layer) for layer in layers} == {RecomputedAnchorDecoderLayer}
    kept, again = gradients(model), gradients(recomputed)
    assert [name for name in kept if not torch.equal(again[name], kept[name])] == []


def saved_for_backward(model):
    """Number of values that a forward pass keeps, not counting parameters."""
    sizes = {}

    def keep(tensor):
        sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(images((256, 256)))
    for parameter in model.parameters():
        sizes.pop(parameter.data_ptr(), None)
    return sum(sizes.values())


def test_less_is_kept_for_the_backward_pass():
    model, recomputed = pair(backbone="resnet50")
    assert saved_for_backward(recomputed) < 0.6 * saved_for_backward(model)


def test_evaluation_names_and_copies_do_not_change():
    model, recomputed = pair(backbone="resnet50")
    assert [n for n, _ in recomputed.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert type(recomputed.backbone[0].body.layer2) is RecomputedStage
    saved = io.BytesIO()
    torch.save(recomputed, saved)
    saved.seek(0)
    copies = (copy.deepcopy(recomputed), torch.load(saved, weights_only=False))
    with torch.no_grad():
        expected = model.eval()(images((64, 96)))["pred_logits"]
        for each in (recomputed, *copies):
            assert torch.equal(each.eval()(images((64, 96)))["pred_logits"], expected)


def test_hooks_are_kept():
    model = build_segmenter().detr
    called = []
    block = model.backbone[0].body.layer3[0]
    block.register_forward_hook(lambda module, inputs, output: called.append(module))
    recompute_activations(model)
    model(images((64, 64)))
    assert called == [block]


def test_trained_batch_norms_are_refused():
    with pytest.raises(ValueError, match="running statistics"):
        recompute_activations(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)))

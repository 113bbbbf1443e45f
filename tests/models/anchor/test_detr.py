"""DETR with anchor queries: outputs, denoising in training only, and what queries can see."""

import pytest
import torch

from models.anchor import denoising
from models.anchor.detr import spread_anchors
from models.fast.inference import optimize_for_inference
from models.segmentation import DETRsegm
from tests.models.anchor.small_anchor_models import NUM_CLASSES, batch, build_anchor_detr
from util.nested_tensor import NestedTensor

COUNTS = [2, 0, 3]


def ordinary(outputs):
    """All tensors of the ordinary queries."""
    layers = [outputs, *outputs["aux_outputs"]]
    return [layer[name] for layer in layers for name in ("pred_logits", "pred_boxes")]


def forward(model, samples, targets, seed=0):
    torch.manual_seed(seed)
    return model.train()(samples, targets)


def changed(targets):
    """Other labels and boxes, the same counts."""
    return [{"labels": (t["labels"] + 1) % NUM_CLASSES, "boxes": t["boxes"] * 0.7} for t in targets]


def test_shapes():
    samples, targets = batch(COUNTS)
    outputs = forward(build_anchor_detr(), samples, targets)
    assert outputs["pred_logits"].shape == (3, 6, NUM_CLASSES + 1)
    assert outputs["pred_boxes"].shape == (3, 6, 4) and len(outputs["aux_outputs"]) == 1
    assert outputs["denoising"]["pred_logits"].shape == (2, 2 * 5, NUM_CLASSES + 1)
    assert outputs["denoising"]["pred_boxes"].shape == (2, 2 * 5, 4)


def test_denoising_is_part_of_training_with_targets_only():
    samples, targets = batch(COUNTS)
    model = build_anchor_detr()
    assert model.needs_targets and not build_anchor_detr(denoising=0).needs_targets
    assert "denoising" not in model(samples)
    with_denoising = model.eval()(samples, targets)
    without = build_anchor_detr(denoising=0).eval()(samples)
    assert with_denoising.keys() == without.keys()
    for a, b in zip(ordinary(with_denoising), ordinary(without), strict=True):
        assert torch.equal(a, b)
    assert model.state_dict().keys() == build_anchor_detr(denoising=0).state_dict().keys()


def test_ordinary_queries_do_not_see_the_ground_truth():
    samples, targets = batch(COUNTS)
    model = build_anchor_detr()
    before = forward(model, samples, targets)
    after = forward(model, samples, changed(targets))
    for a, b in zip(ordinary(before), ordinary(after), strict=True):
        assert torch.equal(a, b)
    assert not torch.allclose(before["denoising"]["pred_boxes"], after["denoising"]["pred_boxes"])


def test_denoising_changes_neither_outputs_nor_gradients_of_ordinary_queries():
    samples, targets = batch(COUNTS)
    results = []
    for groups in (0, 3):
        model = build_anchor_detr(denoising=groups)
        outputs = forward(model, samples, targets)
        sum(value.square().sum() for value in ordinary(outputs)).backward()
        results.append((ordinary(outputs), [p.grad for p in model.parameters()]))
    for a, b in zip(results[0][0], results[1][0], strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-4, rtol=1e-3)


def test_a_group_does_not_see_another_group(monkeypatch):
    samples, targets = batch(COUNTS)
    model = build_anchor_detr()
    before = forward(model, samples, targets)
    noise = denoising.noise_boxes

    def noise_second_group(boxes):
        noised = noise(boxes)
        noised[1] = noised[1] * 0.5
        return noised

    monkeypatch.setattr(denoising, "noise_boxes", noise_second_group)
    after = forward(model, samples, targets)
    for a, b in zip(ordinary(before), ordinary(after), strict=True):
        assert torch.equal(a, b)
    for name in ("pred_logits", "pred_boxes"):
        a, b = before["denoising"][name], after["denoising"][name]
        assert torch.equal(a[:, :5], b[:, :5]) and not torch.allclose(a[:, 5:], b[:, 5:])


def test_padding_of_a_group_is_not_attended_to(monkeypatch):
    """An image with fewer objects than another has the same results as alone."""
    monkeypatch.setattr(denoising, "noise_boxes", lambda boxes: boxes)
    monkeypatch.setattr(denoising, "noise_labels", lambda labels, num_classes: labels)
    samples, targets = batch([2, 4])
    model = build_anchor_detr()
    together = forward(model, samples, targets)["denoising"]
    first = NestedTensor(samples.tensors[:1], samples.mask[:1])
    alone = forward(model, first, targets[:1])["denoising"]
    for name in ("pred_logits", "pred_boxes"):
        of_first = together[name][:, [0, 1, 6, 7]]
        assert torch.allclose(of_first, alone[name], atol=1e-5)


def test_permuted_images_give_permuted_results(monkeypatch):
    monkeypatch.setattr(denoising, "noise_boxes", lambda boxes: boxes)
    monkeypatch.setattr(denoising, "noise_labels", lambda labels, num_classes: labels)
    samples, targets = batch(COUNTS)
    model = build_anchor_detr()
    order = [2, 0, 1]
    permuted = NestedTensor(samples.tensors[order], samples.mask[order])
    before = forward(model, samples, targets)
    after = forward(model, permuted, [targets[i] for i in order])
    for a, b in zip(ordinary(before), ordinary(after), strict=True):
        assert torch.allclose(a[order], b, atol=1e-5)
    objects = [2, 3, 4, 0, 1]  # the three of image 2, then the two of image 0
    rows = [group * 5 + i for group in range(2) for i in objects]
    for name in ("pred_logits", "pred_boxes"):
        a, b = before["denoising"][name], after["denoising"][name]
        assert torch.allclose(a[:, rows], b, atol=1e-5)


@pytest.mark.parametrize("counts", [[0, 0], [1, 0]])
def test_every_parameter_receives_a_gradient(counts):
    """DistributedDataParallel requires it, also for batches without objects."""
    samples, targets = batch(counts)
    model = build_anchor_detr()
    outputs = forward(model, samples, targets)
    sum(value.sum() for value in ordinary(outputs)).backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


@pytest.mark.parametrize("aux_loss", [True, False])
def test_masks_are_of_ordinary_queries(aux_loss):
    torch.manual_seed(0)
    detr = build_anchor_detr(aux_loss=aux_loss)
    assert detr.needs_targets and ("aux_outputs" in detr(batch([1])[0])) == aux_loss
    with pytest.raises(AttributeError):
        _ = detr.bbox_embed


def test_a_segmentation_model_passes_the_targets_on():
    from models.anchor.detr import AnchorDETR
    from models.backbone import Backbone, Joiner
    from models.position_encoding import CellCenterEncoding
    from tests.models.anchor.small_anchor_models import CHANNELS, build_transformer

    body = Backbone("resnet18", True, True, False, weights="none")
    joiner = Joiner(body, CellCenterEncoding(CHANNELS // 2))
    model = DETRsegm(AnchorDETR(joiner, build_transformer(), NUM_CLASSES, 6, denoising=2))
    samples, targets = batch(COUNTS)
    outputs = forward(model, samples, targets)
    assert model.needs_targets and "denoising" in outputs
    assert outputs["pred_masks"].dense().shape[:2] == (3, 6)


def test_a_model_prepared_for_inference_predicts_the_same():
    samples, _ = batch(COUNTS)
    model = build_anchor_detr().eval()
    expected, found = model(samples), optimize_for_inference(model)(samples)
    for name in ("pred_logits", "pred_boxes"):
        assert torch.allclose(expected[name], found[name], atol=1e-4)


@pytest.mark.parametrize(("num_queries", "cells"), [(15, 3), (50, 5), (300, 10)])
def test_initial_anchors_are_spread_over_the_image(num_queries, cells):
    anchors = spread_anchors(num_queries)
    row, column = (anchors[:, :2] * cells).long().unbind(1)
    per_cell = torch.bincount(row * cells + column, minlength=cells**2)
    assert len(per_cell) == cells**2 and per_cell.min() >= 1 and per_cell.max() <= 6
    assert (anchors[:, 2:] == anchors[0, 2]).all()


def test_the_model_starts_with_these_anchors():
    model = build_anchor_detr()
    assert torch.allclose(model.query_embed.weight.sigmoid(), spread_anchors(6))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_stays_in_it(dtype):
    model = build_anchor_detr().eval()
    images = torch.rand(1, 3, 64, 64)
    expected, out = model(images), build_anchor_detr().eval().to(dtype)(images.to(dtype))
    for name in ("pred_logits", "pred_boxes"):
        assert out[name].dtype == dtype
        assert torch.allclose(out[name].float(), expected[name], atol=0.05)

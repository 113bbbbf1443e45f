"""DETRsegm against the oracle; masks of matched queries in training; freezing."""

import argparse
import copy

import pytest
import torch

from benchmarks.original.detector import forward_with_masks, head_masks
from models import build_model
from models.criterion import SetCriterion
from models.fast.deferred_masks import DeferredMasks
from models.matcher import HungarianMatcher
from models.segmentation import DETRsegm, MaskHeadSmallConv, MHAttentionMap
from tests.models.small_models import build_segmenter, images, targets_for

SIZES = [(64, 96), (70, 50)]
WEIGHTS = {"loss_ce": 1, "loss_bbox": 5, "loss_giou": 2, "loss_mask": 1, "loss_dice": 1}


def naive_mask_losses(masks, indices, targets, num_boxes):
    """Focal and dice loss, computed mask by mask, over padded images."""
    height = max(t["masks"].shape[1] for t in targets)
    width = max(t["masks"].shape[2] for t in targets)
    resized = torch.nn.functional.interpolate(
        masks, (height, width), mode="bilinear", align_corners=False
    )
    focal = dice = masks.sum() * 0
    for image, (queries, objects) in enumerate(indices):
        for query, number in zip(queries.tolist(), objects.tolist(), strict=True):
            p = resized[image, query].sigmoid()
            true = torch.zeros(height, width, dtype=torch.bool)
            mask = targets[image]["masks"][number]
            true[: mask.shape[0], : mask.shape[1]] = mask.bool()
            inside, outside = p[true], p[~true]
            terms = 0.25 * ((1 - inside) ** 2 * -inside.log()).sum()
            terms = terms + 0.75 * (outside**2 * -(1 - outside).log()).sum()
            focal = focal + terms / true.numel()
            dice = dice + 1 - (2 * inside.sum() + 1) / (p.sum() + true.sum() + 1)
    return {"loss_mask": focal / num_boxes, "loss_dice": dice / num_boxes}


def build_criterion(num_classes=5):
    terms = ["labels", "boxes", "cardinality", "masks"]
    return SetCriterion(num_classes, HungarianMatcher(1, 5, 2), WEIGHTS, 0.1, terms)


def total(losses):
    return sum(value * WEIGHTS[name] for name, value in losses.items() if name in WEIGHTS)


# ---- attention maps


def plain_attention(module, q, k, mask):
    """Weights query by query and pixel by pixel."""
    queries, keys = module.q_linear(q), module.k_linear(k.permute(0, 2, 3, 1))
    width = module.hidden_dim // module.num_heads
    scores = torch.empty(*q.shape[:2], module.num_heads, *k.shape[-2:], dtype=q.dtype)
    for head in range(module.num_heads):
        part = slice(head * width, (head + 1) * width)
        pairs = queries[:, :, None, None, part] * keys[:, None, :, :, part]
        scores[:, :, head] = pairs.sum(-1) / width**0.5
    scores.masked_fill_(mask[:, None, None], -torch.inf)
    exponentials = scores.exp()
    return exponentials / exponentials.sum((2, 3, 4), keepdim=True)


def test_attention_adds_up_over_heads_and_pixels_together():
    module = MHAttentionMap(12, 8, 4).double()
    q, k = torch.randn(2, 3, 12).double(), torch.randn(2, 12, 4, 5).double()
    mask = torch.zeros(2, 4, 5, dtype=torch.bool)
    mask[1, :, 3:] = True
    weights = module(q, k, mask=mask)
    assert weights.shape == (2, 3, 4, 4, 5)
    assert torch.allclose(weights, plain_attention(module, q, k, mask))
    assert torch.allclose(weights.sum((2, 3, 4)), torch.ones(2, 3).double())
    assert not weights[1, ..., 3:].any()


# ---- mask head


@pytest.mark.parametrize("narrow", [False, True])
def test_head_equals_the_plain_way(narrow):
    dim, heads, context = (10, 2, 16) if narrow else (28, 4, 128)
    head = MaskHeadSmallConv(dim + heads, [12, 10, 6], context).double()
    x, attention = torch.randn(2, dim, 3, 4).double(), torch.rand(2, 5, heads, 3, 4).double()
    fpns = [
        torch.randn(2, channels, *size).double()
        for channels, size in ((12, (5, 7)), (10, (10, 14)), (6, (19, 27)))
    ]
    out = head(x, attention, fpns)
    assert out.shape == (10, 1, 19, 27)
    expected = head_masks(head, x, attention, fpns)
    assert torch.allclose(out.view_as(expected), expected, atol=1e-10)
    repeated = [features.repeat_interleave(5, 0) for features in fpns]
    assert torch.allclose(head(x, attention, repeated), out, atol=1e-10)


# ---- the whole model


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@pytest.mark.parametrize("num_queries", [3, 20])  # less and more than are computed at once
def test_evaluation_equals_the_plain_way(backbone, num_queries):
    model = build_segmenter(backbone=backbone, num_queries=num_queries).eval()
    with torch.no_grad():
        out, expected = model(images(*SIZES)), forward_with_masks(model, images(*SIZES))
    assert out["pred_masks"].shape == (2, num_queries, 18, 24)
    for name in expected:
        assert torch.allclose(out[name], expected[name], atol=1e-5), name


@pytest.mark.parametrize("counts", [[3, 1], [0, 2], [0, 0], [9, 1]])
def test_a_training_step_equals_the_plain_way(counts):
    ours = build_segmenter(num_queries=6, dropout=0).double()
    plain, criterion = copy.deepcopy(ours), build_criterion().double()
    batch = [image.double() for image in images(*SIZES)]
    targets = targets_for(SIZES, counts)
    losses = criterion(ours(batch), targets)
    outputs = forward_with_masks(plain, batch)
    expected = criterion(outputs, targets)
    indices = criterion.matcher(outputs, targets)
    by_hand = naive_mask_losses(outputs["pred_masks"], indices, targets, max(sum(counts), 1))
    for name, value in {**expected, **by_hand}.items():
        assert torch.allclose(losses[name], value, atol=1e-9), name
    total(losses).backward()
    total({**expected, **by_hand}).backward()
    for (name, a), b in zip(ours.named_parameters(), plain.parameters(), strict=True):
        if a.requires_grad:
            assert torch.allclose(a.grad, b.grad, atol=1e-9), name


def test_training_computes_the_masks_of_matched_queries_alone(monkeypatch):
    computed = []
    masks = MaskHeadSmallConv.masks
    monkeypatch.setattr(
        MaskHeadSmallConv,
        "masks",
        lambda self, attention, *rest: (
            computed.append(len(attention)) or masks(self, attention, *rest)
        ),
    )
    outputs = build_segmenter(num_queries=20)(images(*SIZES))
    assert isinstance(outputs["pred_masks"], DeferredMasks) and not computed
    build_criterion()(outputs, targets_for(SIZES, [2, 1]))
    assert computed == [3]


def test_masks_in_training_without_gradients_are_a_tensor():
    with torch.no_grad():
        assert isinstance(build_segmenter()(images((64, 64)))["pred_masks"], torch.Tensor)


# ---- what is trained


def test_freezing_trains_only_the_mask_head():
    model = build_segmenter(freeze_detr=True)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if not n.startswith("detr.")}
    assert any(p.requires_grad for p in build_segmenter().detr.parameters())


def test_batch_norms_of_a_frozen_detector_keep_their_statistics():
    model = build_segmenter(freeze_detr=True, norm="batch").train()
    before = {k: v.clone() for k, v in model.detr.state_dict().items()}
    loss = build_criterion()(model(images(*SIZES)), targets_for(SIZES, [1, 1]))["loss_mask"]
    loss.backward()
    assert all(torch.equal(v, before[k]) for k, v in model.detr.state_dict().items())
    assert model.training and model.detr.transformer.training
    assert build_segmenter(norm="batch").train().detr.backbone[0].body.bn1.training


def test_a_backbone_without_finer_stages_is_refused():
    model = build_segmenter()
    model.detr.backbone[0].body.return_layers = {"layer4": "0"}
    with pytest.raises(ValueError, match="return_interm_layers"):
        DETRsegm(model.detr)


# ---- the builder


FLAGS = {
    **{"backbone": "resnet18", "backbone_weights": "none", "lr_backbone": 1e-5, "dilation": False},
    **{"position_embedding": "sine", "hidden_dim": 32, "nheads": 4, "enc_layers": 1},
    **{"dec_layers": 2, "dim_feedforward": 16, "dropout": 0, "pre_norm": False, "num_queries": 3},
    **{"aux_loss": True, "masks": True, "frozen_weights": None, "dataset_file": "coco"},
    **{"set_cost_class": 1, "set_cost_bbox": 5, "set_cost_giou": 2, "eos_coef": 0.1},
    **{"bbox_loss_coef": 5, "giou_loss_coef": 2, "mask_loss_coef": 3, "dice_loss_coef": 4},
    "device": "cpu",
}


def arguments(**flags):
    return argparse.Namespace(**{**FLAGS, **flags})


def test_masks_bring_head_losses_and_postprocessor():
    model, criterion, postprocessors = build_model(arguments())
    assert isinstance(model, DETRsegm) and list(postprocessors) == ["bbox", "segm"]
    assert criterion.weight_dict["loss_mask"] == 3 and criterion.weight_dict["loss_dice"] == 4
    assert "masks" in criterion.losses


def test_panoptic_data_bring_a_postprocessor_for_every_class():
    flags = arguments(dataset_file="coco_panoptic", panoptic_threshold=0.5)
    panoptic = build_model(flags)[2]["panoptic"]
    assert panoptic.threshold == 0.5
    assert [panoptic.is_thing_map[i] for i in (0, 90, 91, 249)] == [True, True, False, False]
    assert list(build_model(arguments(dataset_file="coco_panoptic", masks=False))[2]) == ["bbox"]


def test_frozen_weights_freeze():
    model = build_model(arguments(frozen_weights="a.pth"))[0]
    assert not any(p.requires_grad for p in model.detr.parameters())

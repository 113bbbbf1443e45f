"""Detections of 8-bit images with boxes in pixels, against the model and its post-processor."""

import pytest
import torch

from datasets.loading.byte_images import IMAGENET
from export.check import padded_batches
from export.end_to_end import EndToEnd, compare_end_to_end
from export.wrapper import ExportWrapper
from models.postprocess import PostProcess
from tests.export.small_files import NARROW_BOXES, NARROW_MASKS, build
from util.nested_tensor import NestedTensor


def module_of(architecture, top_k=5, threshold=0.0):
    wrapper = ExportWrapper(build(architecture)).eval()
    return EndToEnd(wrapper, top_k, threshold).eval().requires_grad_(False)


@pytest.fixture
def inputs():
    """Images with noise in their padding, which must not matter."""
    pixels = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(0))
    return pixels.byte(), torch.tensor([[64, 70], [50, 96]]), torch.tensor([[128, 140], [400, 500]])


def by_hand(model, pixels, sizes_hw, original_sizes_hw):
    images, mask = torch.zeros(2, 3, 64, 96), torch.ones(2, 64, 96, dtype=torch.bool)
    for i, (height, width) in enumerate(sizes_hw.tolist()):
        for channel in range(3):
            values = pixels[i, channel, :height, :width] / 255
            normalized = (values - IMAGENET.mean[channel]) / IMAGENET.std[channel]
            images[i, channel, :height, :width] = normalized
        mask[i, :height, :width] = False
    outputs = model(NestedTensor(images, mask))
    return outputs, PostProcess()(outputs, original_sizes_hw)


@pytest.mark.parametrize("architecture", [NARROW_BOXES, NARROW_MASKS])
@torch.no_grad()
def test_the_best_detections_in_pixels(inputs, architecture):
    module = module_of(architecture, top_k=3)
    outputs, expected = by_hand(module.wrapper.model, *inputs)
    found = module(*inputs)
    assert tuple(found) == module.signature().outputs
    for i, image in enumerate(expected):
        order = image["scores"].argsort(descending=True)[:3]
        assert torch.equal(found["queries"][i], order)
        torch.testing.assert_close(found["scores"][i], image["scores"][order])
        assert torch.equal(found["labels"][i], image["labels"][order])
        height, width = inputs[2][i].tolist()
        limits = torch.tensor([width, height, width, height])
        boxes = image["boxes"][order].clamp(min=0).minimum(limits)
        torch.testing.assert_close(found["boxes"][i], boxes, rtol=1e-4, atol=1e-3)
        if architecture.masks:
            torch.testing.assert_close(found["pred_masks"][i], outputs["pred_masks"][i, order])


@torch.no_grad()
def test_detections_below_the_threshold_are_empty(inputs):
    scores = module_of(NARROW_BOXES)(*inputs)["scores"]
    between = float(scores[0, 1:3].mean())
    found = module_of(NARROW_BOXES, threshold=between)(*inputs)
    assert found["num_detections"].tolist() == (scores >= between).sum(1).tolist()
    assert found["num_detections"][0] == 2
    assert (found["labels"][0] == -1).tolist() == [False, False, True, True, True]
    assert not found["scores"][0, 2:].any() and not found["boxes"][0, 2:].any()
    assert torch.equal(found["scores"][0, :2], scores[0, :2])


def changed(module, **changes):
    def run(*inputs):
        outputs = module(*inputs)
        return {**outputs, **{name: change(outputs[name]) for name, change in changes.items()}}

    return run


@pytest.mark.parametrize("architecture", [NARROW_BOXES, NARROW_MASKS])
def test_the_comparison_finds_what_differs(architecture):
    module = module_of(architecture, top_k=4, threshold=0.2)
    batch = next(padded_batches([(64, 96)], [3]))
    assert compare_end_to_end(module, module, *batch).largest() < 1e-6
    wrong = {
        "scores": lambda scores: scores + 0.01,
        "boxes": lambda boxes: boxes + 2,
        "queries": lambda queries: queries.flip(1),
        "labels": lambda labels: torch.full_like(labels, -1),  # nothing is found
    }
    if architecture.masks:
        wrong["pred_masks"] = lambda masks: masks.flip(1)
    for name, change in wrong.items():
        exported = changed(module, **{name: change})
        assert compare_end_to_end(module, exported, *batch).largest() > 1e-3, name


def test_labels_are_compared():
    module = module_of(NARROW_BOXES)
    batch = next(padded_batches([(64, 96)], [1]))
    exported = changed(module, labels=lambda labels: (labels + 1) % 7)
    assert compare_end_to_end(module, exported, *batch).largest() > 1e-3

"""The exported module against the model and its post-processor."""

import pytest
import torch

from export.check import compare, padded_batches
from export.wrapper import ExportWrapper, MinimalWrapper, output_names
from models.demo import MinimalDETR
from models.postprocess import PostProcess
from tests.export.small_files import BOXES, MASKS, build
from tests.models.small_models import images
from util.nested_tensor import nested_tensor_from_tensor_list


@pytest.fixture
def batch():
    return nested_tensor_from_tensor_list(images((64, 96), (50, 70)))


@pytest.mark.parametrize("architecture", [BOXES, MASKS])
@torch.no_grad()
def test_detections_are_those_of_the_postprocessor(batch, architecture):
    model = build(architecture)
    wrapper = ExportWrapper(model).eval()
    outputs = model(batch)
    found = wrapper(batch.tensors, batch.mask)
    assert list(found) == output_names(wrapper)
    expected = PostProcess()(outputs, torch.ones(2, 2))  # relative: an image of one pixel
    for i, image in enumerate(expected):
        for name in ("scores", "labels", "boxes"):
            assert torch.equal(found[name][i], image[name])
    if architecture.masks:
        assert torch.equal(found["pred_masks"], outputs["pred_masks"])


@pytest.mark.parametrize("architecture", [BOXES, MASKS])
@torch.no_grad()
def test_raw_outputs_are_those_of_the_model(batch, architecture):
    model = build(architecture)
    wrapper = ExportWrapper(model, raw=True).eval()
    outputs, found = model(batch), wrapper(batch.tensors, batch.mask)
    assert list(found) == list(outputs) == output_names(wrapper)
    assert all(torch.equal(found[name], outputs[name]) for name in outputs)


@pytest.mark.parametrize("raw", [True, False])
@torch.no_grad()
def test_the_minimal_model_takes_images_only(raw):
    torch.manual_seed(0)
    model = MinimalDETR(4, 16, 2, 1, 1).eval()
    wrapper = MinimalWrapper(model, raw).eval()
    ((pixels, mask),) = padded_batches([(64, 96)], [2])
    found, outputs = wrapper(pixels), model(pixels)
    assert tuple(found) == wrapper.signature().outputs
    if raw:
        assert torch.equal(found["pred_logits"], outputs["pred_logits"])
    else:
        expected = PostProcess()(outputs, torch.ones(2, 2))
        assert torch.equal(found["boxes"][1], expected[1]["boxes"])
    assert compare(wrapper, wrapper, pixels, mask).largest() == 0
    assert tuple(wrapper.signature().dynamic_shapes) == wrapper.signature().inputs == ("images",)

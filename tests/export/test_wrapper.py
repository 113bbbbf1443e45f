"""The exported module against the model and its post-processor."""

import pytest
import torch

from export.wrapper import ExportWrapper, output_names
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

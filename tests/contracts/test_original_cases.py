"""What the original codebase publishes as tests of its own, as cases for ours.

Boxes there and back, matching with empty targets, TorchScript of the parts, of the released models
and of a wrapper that takes a list, ONNX files at another size than that of the export, the kinds of
input that a model takes.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hubconf
from export.onnx import OPSET
from export.quiet import quiet
from export.wrapper import INPUTS, dynamic_shapes
from models.backbone import Backbone, Joiner
from models.matcher import HungarianMatcher
from models.position_encoding import PositionEmbeddingLearned, PositionEmbeddingSine
from tests.export.small_files import NARROW_BOXES, NARROW_MASKS, build
from util.box_ops import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from util.misc import nested_tensor_from_tensor_list

# torch.jit.script announces its end in every call; it is a contract of this project all the same.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

NUM_QUERIES, NUM_CLASSES = 100, 91
MODELS = ("detector", "segmenter")


def seeded():
    return torch.Generator().manual_seed(0)


def photos(*sizes_hw):
    generator = seeded()
    return [torch.rand(3, *size, generator=generator) for size in sizes_hw]


def assert_same_outputs(found, expected):
    """Equal but for rounding: threads share sums out differently from call to call."""
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return hubconf.detr_resnet50(backbone_weights="none").eval()


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    return hubconf.detr_resnet50_panoptic(backbone_weights="none").eval()


@pytest.fixture(scope="module")
def small_detector():
    return build(NARROW_BOXES).eval()


@pytest.fixture(scope="module")
def small_segmenter():
    return build(NARROW_MASKS).eval()


# ---- boxes ---------------------------------------------------------------------------------------


def test_boxes_there_and_back():
    boxes_cxcywh = torch.rand(10, 4, generator=seeded())
    back = box_xyxy_to_cxcywh(box_cxcywh_to_xyxy(boxes_cxcywh))
    torch.testing.assert_close(back, boxes_cxcywh)


# ---- matching ------------------------------------------------------------------------------------


def objects(count):
    generator = seeded()
    return {
        "labels": torch.randint(NUM_CLASSES, (count,), generator=generator),
        "boxes": torch.rand(count, 4, generator=generator),
    }


@pytest.mark.parametrize("counts", [[15], [0], [0, 15], [15, 0], [0, 0]])
def test_matching_with_and_without_objects(counts):
    generator = seeded()
    logits = torch.rand(len(counts), NUM_QUERIES, NUM_CLASSES + 1, generator=generator)
    boxes = torch.rand(len(counts), NUM_QUERIES, 4, generator=generator)
    outputs = {"pred_logits": logits, "pred_boxes": boxes}
    matches = HungarianMatcher()(outputs, [objects(count) for count in counts])
    assert len(matches) == len(counts)
    for (queries, targets), count in zip(matches, counts, strict=True):
        assert queries.dtype == targets.dtype == torch.int64
        assert len(queries) == len(set(queries.tolist())) == count
        assert sorted(targets.tolist()) == list(range(count))


# ---- TorchScript ---------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [PositionEmbeddingSine(), PositionEmbeddingLearned()])
def test_scripted_position_encoding(encoding):
    batch = nested_tensor_from_tensor_list(photos((20, 30), (25, 10)))
    torch.testing.assert_close(torch.jit.script(encoding)(batch), encoding(batch))


def test_scripted_backbone_alone():
    body = Backbone("resnet50", True, False, False, weights="none").eval()
    batch = nested_tensor_from_tensor_list(photos((64, 96), (50, 70)))
    found, expected = torch.jit.script(body)(batch), body(batch)
    assert list(found) == list(expected) == ["0"]
    torch.testing.assert_close(found["0"].tensors, expected["0"].tensors, rtol=1e-4, atol=1e-4)
    assert torch.equal(found["0"].mask, expected["0"].mask)


@pytest.mark.parametrize("all_stages", [False, True])
def test_scripted_backbone_with_positions(all_stages):
    body = Backbone("resnet50", True, all_stages, False, weights="none")
    joiner = Joiner(body, PositionEmbeddingSine(128, normalize=True)).eval()
    batch = nested_tensor_from_tensor_list(photos((64, 96), (50, 70)))
    features, positions = joiner(batch)
    scripted_features, scripted_positions = torch.jit.script(joiner)(batch)
    assert len(features) == len(scripted_features) == (4 if all_stages else 1)
    for found, expected in zip(scripted_features, features, strict=True):
        torch.testing.assert_close(found.tensors, expected.tensors, rtol=1e-4, atol=1e-4)
        assert torch.equal(found.mask, expected.mask)
    torch.testing.assert_close(scripted_positions, positions)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_scripted_model(name, request):
    model = request.getfixturevalue(name)
    scripted = torch.jit.script(model)
    for sizes in [((96, 128),), ((64, 64), (80, 50))]:
        batch = nested_tensor_from_tensor_list(photos(*sizes))
        assert_same_outputs(scripted(batch), model(batch))


class TakesList(nn.Module):
    """A model around ours that takes a list of images, as a deployment would."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: list[Tensor]):
        return self.model(nested_tensor_from_tensor_list(images))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_scripted_wrapper_that_takes_a_list(name, request):
    model = TakesList(request.getfixturevalue(name))
    images = photos((64, 96), (80, 50))
    assert_same_outputs(torch.jit.script(model)(images), model(images))


# ---- ONNX ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(f"small_{kind}", marks=pytest.mark.slow) for kind in MODELS),
        *(pytest.param(kind, marks=pytest.mark.full) for kind in MODELS),
    ],
)
@torch.no_grad()
def test_onnx_of_a_square_image_at_another_size(name, request):
    """The model itself, with one tensor for input; `export.onnx` wraps it, and has other tests."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    model = request.getfixturevalue(name)
    with quiet():
        program = torch.onnx.export(
            model,
            (torch.full((1, 3, 96, 96), 0.3),),
            input_names=INPUTS[:1],
            dynamic_shapes=(dynamic_shapes(math.inf)[INPUTS[0]],),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (image,) = photos((70, 133))
    found = session.run(None, {INPUTS[0]: image[None].numpy()})
    for values, expected in zip(found, model(image[None]).values(), strict=True):
        np.testing.assert_allclose(values, expected.numpy(), rtol=1e-3, atol=1e-5)


# ---- kinds of input ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_list_tensor_and_nested_tensor_mean_the_same(name, request):
    model = request.getfixturevalue(name)
    images = photos((64, 96), (64, 96))
    expected = model(nested_tensor_from_tensor_list(images))
    assert expected["pred_logits"].shape[:2] == expected["pred_boxes"].shape[:2] == (2, NUM_QUERIES)
    assert_same_outputs(model(images), expected)
    assert_same_outputs(model(torch.stack(images)), expected)


@torch.no_grad()
def test_one_image_after_the_other(detector):
    (image,) = photos((64, 96))
    assert_same_outputs(detector([image]), detector(image[None]))

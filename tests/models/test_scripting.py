"""The model as TorchScript and as an exported program, against eager mode at another size."""

import pytest
import torch
from torch import Tensor, nn

from models.backbone import Backbone, Joiner
from models.detr import DETR
from models.position_encoding import PositionEmbeddingLearned, PositionEmbeddingSine
from models.transformer import Transformer
from tests.models.anchor.small_anchor_models import build_anchor_detr
from tests.narrow_resnet import NARROW
from util.nested_tensor import NestedTensor, nested_tensor_from_tensor_list

# torch.jit.script announces its end in every call; it is a contract of this project all the same.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


def build_joiner():
    backbone = Backbone(NARROW, True, False, False, weights="none")
    return Joiner(backbone, PositionEmbeddingSine(8, normalize=True))


def build_model():
    torch.manual_seed(0)
    transformer = Transformer(
        16, 2, num_encoder_layers=1, num_decoder_layers=2, return_intermediate_dec=True
    )
    return DETR(build_joiner(), transformer, num_classes=3, num_queries=4).eval()


def images(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


class TakesList(nn.Module):
    """A wrapper that takes a list of images, as a deployment would."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch: list[Tensor]):
        return self.model(nested_tensor_from_tensor_list(batch))


class TakesTensors(nn.Module):
    """A wrapper that takes images and padding mask, for export."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch: Tensor, mask: Tensor):
        outputs = self.model(NestedTensor(batch, mask))
        return outputs["pred_logits"], outputs["pred_boxes"]


@pytest.mark.parametrize("encoding", [PositionEmbeddingSine(6), PositionEmbeddingLearned(6)])
def test_position_encodings_script(encoding):
    batch = nested_tensor_from_tensor_list(images((20, 30), (25, 10)))
    assert torch.equal(torch.jit.script(encoding)(batch), encoding(batch))


def test_backbone_scripts():
    joiner = build_joiner().eval()
    scripted = torch.jit.script(joiner)
    batch = nested_tensor_from_tensor_list(images((64, 70), (50, 96)))
    for ours, theirs in zip(joiner(batch), scripted(batch), strict=True):
        a, b = ours[0], theirs[0]
        a, b = (a.tensors, b.tensors) if hasattr(a, "tensors") else (a, b)
        assert torch.allclose(a, b, atol=1e-6)


def test_model_scripts():
    model = build_model()
    scripted = torch.jit.script(model)
    for sizes in [((64, 64),), ((40, 96), (70, 33))]:
        batch = nested_tensor_from_tensor_list(images(*sizes))
        expected, found = model(batch), scripted(batch)
        assert expected.keys() == found.keys()
        for name in expected:
            assert torch.allclose(expected[name], found[name], atol=1e-5)


def test_a_wrapper_with_a_list_can_be_scripted():
    model = TakesList(build_model())
    scripted = torch.jit.script(model)
    batch = images((64, 64), (32, 80))
    assert torch.allclose(scripted(batch)["pred_boxes"], model(batch)["pred_boxes"], atol=1e-5)


def test_model_exports_with_dynamic_sizes():
    model = TakesTensors(build_model())
    first = nested_tensor_from_tensor_list(images((64, 96), (64, 64)))
    sizes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO}
    shapes = ({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}, sizes)
    program = torch.export.export(model, (first.tensors, first.mask), dynamic_shapes=shapes)
    other = nested_tensor_from_tensor_list(images((64, 160), (128, 50), (33, 64)))
    expected = model(other.tensors, other.mask)
    for a, b in zip(expected, program.module()(other.tensors, other.mask), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("with_weights", [False, True])
def test_model_with_anchors_scripts(with_weights):
    model = build_anchor_detr(20, aux_loss=False, overlap_penalty=4).eval()
    if with_weights:  # a hook that reads attention weights does not exist in the script
        model.transformer.decoder.layers[-1].multihead_attn.register_forward_hook(_ignore)
    scripted = torch.jit.script(build_anchor_detr(20, aux_loss=False, overlap_penalty=4).eval())
    batch = nested_tensor_from_tensor_list(images((40, 96), (70, 33)))
    expected, found = model(batch), scripted(batch)
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.allclose(expected[name], found[name], atol=1e-5)


def _ignore(*args):
    return None


def test_model_with_anchors_exports_with_dynamic_sizes():
    model = TakesTensors(build_anchor_detr(20, aux_loss=False, overlap_penalty=4).eval())
    first = nested_tensor_from_tensor_list(images((64, 96), (64, 64)))
    auto = torch.export.Dim.AUTO
    shapes = ({0: auto, 2: auto, 3: auto}, {0: auto, 1: auto, 2: auto})
    program = torch.export.export(model, (first.tensors, first.mask), dynamic_shapes=shapes)
    other = nested_tensor_from_tensor_list(images((64, 160), (128, 50), (33, 64)))
    expected = model(other.tensors, other.mask)
    for a, b in zip(expected, program.module()(other.tensors, other.mask), strict=True):
        assert torch.allclose(a, b, atol=1e-5)

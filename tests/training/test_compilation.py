"""torch.compile for training: few graphs for all sizes, unchanged state dict, refusals."""

import copy
import sysconfig

import pytest
import torch
from torch._dynamo.utils import counters

from tests.drawn_data import drawn_data
from tests.models.small_models import build_segmenter, images
from tests.narrow_resnet import SHALLOW
from tests.test_main import run_simple
from training.compilation import (
    check_compiler,
    compile_parts,
    describe_compilations,
    discard_graphs,
)
from util.errors import UserError

# Raised while Dynamo inspects the inputs of a graph.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


data = drawn_data(num_train=4, num_val=2)


@pytest.fixture
def compiled():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    counters.clear()


def test_many_sizes_need_few_graphs(compiled):
    model = build_segmenter(SHALLOW, dropout=0).detr.train()
    expected, keys = copy.deepcopy(model), list(model.state_dict())
    compile_parts(model, backend="eager")
    assert list(model.state_dict()) == keys

    def graphs_after(sizes):
        for size in sizes:
            found, plain = model(images(size, (64, 64))), expected(images(size, (64, 64)))
            assert torch.allclose(found["pred_logits"], plain["pred_logits"], atol=1e-5)
        return counters["stats"]["unique_graphs"]

    # The max-pooling of the stem depends on whether height and width are even after its stride.
    graphs = graphs_after([(70, 142), (72, 142), (70, 140), (72, 140)])
    assert graphs <= 5
    assert graphs_after([(200, 100), (128, 128), (97, 165), (110, 67)]) == graphs
    assert describe_compilations() == f"--compile: {graphs} graphs compiled, 0 graph breaks"


def test_a_copy_is_not_compiled_and_shares_nothing(compiled):
    model = build_segmenter(SHALLOW, dropout=0).detr.eval()
    compile_parts(model, backend="eager")
    with torch.no_grad():  # throughout: a change of the mode compiles again
        expected = model(images((64, 64)))["pred_logits"]
        average = copy.deepcopy(model)
        average.class_embed.bias.add_(1)
        assert torch.allclose(average(images((64, 64)))["pred_logits"], expected + 1, atol=1e-5)
        assert torch.equal(model(images((64, 64)))["pred_logits"], expected)


def test_segmentation_models_are_compiled_too(compiled):
    model = build_segmenter(SHALLOW, dropout=0)
    compile_parts(model, backend="eager")
    model(images((64, 64)))
    assert counters["stats"]["unique_graphs"] == 2


def test_a_frozen_backbone_is_trained_later(compiled):
    model = build_segmenter(SHALLOW).detr
    compile_parts(model, backend="aot_eager")
    body, image = model.backbone[0].body, torch.rand(1, 3, 64, 64)
    trained = [parameter for parameter in body.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    body(image)
    for parameter in trained:
        parameter.requires_grad_(True)
    discard_graphs()
    body(image)["3"].sum().backward()
    assert all(parameter.grad is not None for parameter in trained)


def test_runs_compile_again_when_they_freeze_or_unfreeze_the_backbone(data, monkeypatch):
    discarded = []
    monkeypatch.setattr("training.flags.checks.check_compiler", lambda device: None)
    monkeypatch.setattr("training.network.compile_parts", lambda model: None)
    monkeypatch.setattr("training.loop.discard_graphs", lambda: discarded.append(True))
    flags = ["--epochs", "3", "--freeze_backbone_epochs", "1"]
    assert run_simple(data, *flags, "--compile") == 0
    assert len(discarded) == 2
    assert run_simple(data, *flags) == 0
    assert len(discarded) == 2


def refusal(device):
    with pytest.raises(UserError) as caught:
        check_compiler(torch.device(device))
    assert str(caught.value).startswith("--compile: ") and "omit" in str(caught.value)
    return str(caught.value)


def test_missing_tools_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("training.compilation.find_spec", lambda name: None)
    assert "triton" in refusal("cuda")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no C++ compiler (g++ or clang++)" in refusal("cpu")
    monkeypatch.setenv("CXX", "icx")
    assert "no C++ compiler (icx)" in refusal("cpu")
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert "Python.h" in refusal("cpu")

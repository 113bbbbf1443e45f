"""The network of a run: faster kernels, the same results as the plain model up to rounding."""

import copy

import pytest
import torch
from torch import nn

from engine import train_one_epoch
from main import get_args_parser
from models import build_model
from models.fast import onednn_linear
from models.fast.convolution import SmallMapConv2d
from models.fast.folded_norm import FoldedConv2d
from models.fast.recomputation import RecomputedStage
from tests.models.small_models import build_segmenter
from tests.narrow_resnet import NARROW
from training import network
from training.network import build_network, prepare_for_training
from util.nested_tensor import nested_tensor_from_tensor_list
from util.optimizer import build_optimizer

TINY = (
    f"--backbone {NARROW} --backbone_weights none --num_classes 3 --hidden_dim 32 --nheads 4 "
    "--enc_layers 1 --dec_layers 2 --dim_feedforward 32 --num_queries 5 --device cpu"
)


def build(flags=""):
    torch.manual_seed(0)
    return build_network(get_args_parser().parse_args(f"{TINY} {flags}".split()), None)


def kinds_of_convolutions(model):
    return {type(module) for module in model.modules() if isinstance(module, nn.Conv2d)}


def is_channels_last(model):
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    return all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_a_run_on_a_cpu_folds_norms_and_is_channels_last(amp):
    model, _, _ = build(f"--amp {amp}")
    assert kinds_of_convolutions(model.backbone) == {FoldedConv2d}
    assert kinds_of_convolutions(model.input_proj) == {SmallMapConv2d}
    assert is_channels_last(model)


def test_trained_batch_norms_are_not_folded():
    model, _, _ = build("--backbone_norm batch")
    assert kinds_of_convolutions(model) == {SmallMapConv2d}
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 17


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_on_other_devices_only_mixed_precision_is_channels_last(amp):
    model = build_segmenter().to("meta")
    prepare_for_training(model, amp)
    assert kinds_of_convolutions(model.detr.backbone) == {FoldedConv2d}
    assert is_channels_last(model) == (amp == "bf16")


def test_things_of_the_annotation_file_override_those_of_coco():
    args = get_args_parser().parse_args(f"{TINY} --dataset_file coco_panoptic --masks".split())
    _, _, postprocessors = build_network(args, {5: False, 100: True})
    is_thing = postprocessors["panoptic"].is_thing_map
    assert is_thing[5] is False and is_thing[100] is True


def test_activation_checkpointing_is_a_flag():
    for flags, kind in (("", nn.Sequential), ("--activation_checkpointing", RecomputedStage)):
        assert type(build(flags)[0].backbone[0].body.layer3) is kind


def batches(count):
    generator = torch.Generator().manual_seed(4)
    for number in range(count):
        sizes = ((64 + 8 * number, 96), (70, 80 + 4 * number))
        images = [torch.randn(3, *size, generator=generator) for size in sizes]
        boxes = torch.rand(2, 4, generator=generator) * 0.3 + 0.3
        target = {"labels": torch.tensor([0, 2]), "boxes": boxes}
        yield nested_tensor_from_tensor_list(images), [target, target]


def losses_and_weights(model, criterion):
    """Losses of twenty steps with dropout, and the weights after them."""
    optimizer, device = build_optimizer(model, 1e-4, 1e-5, 1e-4), torch.device("cpu")
    torch.manual_seed(5)
    losses = [
        train_one_epoch(model, criterion, [batch], optimizer, device, 0, 0.1)["loss"]
        for batch in batches(20)
    ]
    return torch.tensor(losses), torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("processor", ["AMD", "other"])
def test_twenty_steps_equal_those_of_the_plain_model(processor, monkeypatch):
    monkeypatch.setattr(network, "is_onednn_faster", lambda: processor == "AMD")
    monkeypatch.setattr(onednn_linear, "_MIN_MULTIPLICATIONS", 1)
    prepared, criterion, _ = build()
    assert (type(prepared.class_embed) is nn.Linear) == (processor == "other")
    plain = build_model(get_args_parser().parse_args(TINY.split()))[0]
    plain.load_state_dict(prepared.state_dict())
    expected, expected_weights = losses_and_weights(plain, copy.deepcopy(criterion))
    found, weights = losses_and_weights(prepared, criterion)
    assert torch.allclose(found, expected, rtol=1e-5)
    assert (weights - expected_weights).norm() < 1e-5 * expected_weights.norm()

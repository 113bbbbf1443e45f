"""Models, images and targets of the benchmarks, the same in every run."""

import argparse
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine import compute_losses, forward_pass, weight_losses
from main import get_args_parser
from models import build_model
from models.criterion import SetCriterion
from util.nested_tensor import NestedTensor, nested_tensor_from_tensor_list
from util.options import fill_in_new_flags

R50 = "--backbone resnet50"
TINY = (
    "--backbone resnet18 --hidden_dim 32 --nheads 4 --enc_layers 1 --dec_layers 2 "
    "--dim_feedforward 32 --num_queries 5"
)


def flags_of(text: str) -> argparse.Namespace:
    """All flags of main.py, for random weights and 91 classes, and those in ``text``."""
    argv = shlex.split(f"--backbone_weights none --num_classes 91 --device cpu {text}")
    args = argparse.ArgumentParser(parents=[get_args_parser()]).parse_args(argv)
    fill_in_new_flags(args)
    return args


def build(text: str) -> tuple[nn.Module, SetCriterion]:
    """A model with random weights, as `models.build_model` returns it, and its criterion.

    Args:
        text: flags of main.py, such as `R50`.
    """
    torch.manual_seed(0)
    args = flags_of(text)
    model, criterion, _ = build_model(args)
    _randomize_norms(model)
    return model.to(args.device), criterion


@torch.no_grad()
def _randomize_norms(model: nn.Module) -> None:
    """Vary the statistics of frozen batch norms; the last one of a block keeps the sum bounded."""
    generator = torch.Generator().manual_seed(0)
    for name, buffer in model.named_buffers():
        norm, _, field = name.rpartition(".")
        if field in ("weight", "running_var"):
            is_last = norm.endswith(("bn3", "layer1.bn2"))
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
            buffer.mul_(0.3 if is_last and field == "weight" else 1)
        elif field in ("bias", "running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)


def images(sizes_hw: Sequence[tuple[int, int]], device: str = "cpu", seed: int = 0) -> NestedTensor:
    """A padded batch of random images."""
    generator = torch.Generator().manual_seed(seed)
    batch = [torch.randn(3, *size, generator=generator) for size in sizes_hw]
    return nested_tensor_from_tensor_list(batch).to(device)


def targets(
    num_images: int,
    num_objects: int | None = None,
    size_hw: tuple[int, int] | None = None,
    device: str = "cpu",
) -> list[dict[str, Tensor]]:
    """Targets with labels and boxes cxcywh, and masks if there is an image size.

    Args:
        num_objects: objects per image; None: 4 to 10.
        size_hw: height and width of the rectangular masks.
    """
    generator = torch.Generator().manual_seed(0)
    made: list[dict[str, Any]] = []
    for image in range(num_images):
        count = 4 + image % 7 if num_objects is None else num_objects
        sizes = torch.rand(count, 2, generator=generator) * 0.4 + 0.05
        centers = torch.rand(count, 2, generator=generator) * (1 - sizes) + sizes / 2
        labels = torch.randint(1, 91, (count,), generator=generator)
        target = {"labels": labels, "boxes": torch.cat((centers, sizes), 1)}
        if size_hw is not None:
            target["masks"] = _rectangles(target["boxes"], size_hw)
        made.append({name: value.to(device) for name, value in target.items()})
    return made


def gradients_of(
    network: nn.Module, criterion: SetCriterion, batch: NestedTensor, objects: Any, amp: str = "off"
) -> Callable[[], list[Tensor]]:
    """A forward and backward pass that returns the gradients of all trained parameters."""
    device = next(network.parameters()).device

    def run() -> list[Tensor]:
        """Return the gradients, sorted by parameter name."""
        network.zero_grad(set_to_none=True)
        outputs = forward_pass(network, batch, device, amp)
        losses = compute_losses(criterion, outputs, objects, 1.0)
        weight_losses(losses, criterion.weight_dict, objects)[0].backward()
        named = sorted(network.named_parameters())
        return [parameter.grad for _, parameter in named if parameter.grad is not None]

    return run


def _rectangles(boxes_cxcywh: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Filled boxes as masks (N, H, W) uint8."""
    height, width = size_hw
    rows = torch.arange(height)[None, :, None] / height
    columns = torch.arange(width)[None, None, :] / width
    x, y, w, h = boxes_cxcywh[:, :, None, None].unbind(1)
    return (((rows - y).abs() <= h / 2) & ((columns - x).abs() <= w / 2)).to(torch.uint8)

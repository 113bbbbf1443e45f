"""Backbone: a torchvision ResNet with padding masks and positional encodings (paper, 3.2)."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter

from models.weights import DETECTOR_PREFIX, model_state
from util.distributed.processes import is_main_process
from util.errors import UserError
from util.files.checkpoint_file import load_checkpoint
from util.nested_tensor import NestedTensor
from util.options import option

from .frozen_norm import FrozenBatchNorm2d
from .position_encoding import PositionEmbeddingLearned, build_position_encoding

BODY = "backbone.0.body."  # prefix of the ResNet's keys in a detector
_RESNETS = ("resnet*", "resnext*", "wide_resnet*")
_RESNET50_CHANNELS = (256, 512, 1024, 2048)
_LATE_STAGES = ("layer2", "layer3", "layer4")


class BackboneBase(nn.Module):
    """ResNet that returns the feature maps of some stages, each with its padding mask.

    Args:
        backbone: torchvision ResNet, or a module with children ``layer1`` … ``layer4`` in order
            of execution.
        train_backbone: train stages 2 to 4; the stem and stage 1 are frozen.
        num_channels: number of channels of the last stage.
        return_interm_layers: return all four stages ("0" … "3") instead of only the last ("0").
        train_all: with ``train_backbone``, train the stem and stage 1 too (training from scratch).
    """

    def __init__(
        self,
        backbone: nn.Module,
        train_backbone: bool,
        num_channels: int,
        return_interm_layers: bool,
        train_all: bool = False,
    ):
        super().__init__()
        for name, parameter in backbone.named_parameters():
            in_late_stage = any(stage in name for stage in _LATE_STAGES)
            parameter.requires_grad_(train_backbone and (train_all or in_late_stage))
        stages = ("layer1", "layer2", "layer3", "layer4") if return_interm_layers else ("layer4",)
        returned = {stage: str(number) for number, stage in enumerate(stages)}
        self.body = IntermediateLayerGetter(backbone, return_layers=returned)
        self.num_channels = num_channels

    def forward(self, tensor_list: NestedTensor):  # type: ignore[no-untyped-def]
        """Compute feature maps.

        Args:
            tensor_list: images (B, 3, H, W) with a padding mask (B, H, W).

        Returns:
            feature maps (B, C, H / stride, W / stride) by name, each with its padding mask, resized
            by nearest-neighbor interpolation. A fully padded image gets an all-False mask, because
            a softmax over no positions is NaN.
        """
        features: dict[str, Tensor] = self.body(tensor_list.tensors)
        padding_mask = tensor_list.mask
        assert padding_mask is not None
        out: dict[str, NestedTensor] = {}
        for name, feature in features.items():
            mask = F.interpolate(padding_mask[None].float(), size=feature.shape[-2:])[0] > 0
            out[name] = NestedTensor(feature, mask & ~mask.flatten(1).all(1)[:, None, None])
        return out


class Backbone(BackboneBase):
    """A torchvision ResNet, ResNeXt or wide ResNet.

    Args:
        name: name in ``torchvision.models``, such as ``resnet50``.
        train_backbone: train stages 2 to 4 (all stages with ``norm="batch"``).
        return_interm_layers: return all four stages instead of only the last.
        dilation: DC5: dilate the last stage instead of halving its resolution.
        weights: ``"imagenet"`` (downloaded), ``"none"`` (random), or the path of a weights file.
        norm: ``"frozen"`` (`FrozenBatchNorm2d`) or ``"batch"`` (trainable `torch.nn.BatchNorm2d`).

    Raises:
        UserError: unknown name, dilated ResNet-18 or 34, or weights that cannot be loaded.
    """

    def __init__(
        self,
        name: str,
        train_backbone: bool,
        return_interm_layers: bool,
        dilation: bool,
        weights: str = "imagenet",
        norm: str = "frozen",
    ):
        backbone = _build_resnet(name, dilation, norm)
        load_resnet_weights(backbone, name, weights)
        num_channels = _output_channels(backbone.layer4)
        train_all = norm == "batch"
        super().__init__(backbone, train_backbone, num_channels, return_interm_layers, train_all)


def _build_resnet(name: str, dilation: bool, norm: str) -> Any:
    known = known_resnets()
    if name not in known:
        raise UserError(
            f"--backbone {name}: not a torchvision ResNet; choose one of {', '.join(known)}"
        )
    norm_layer = FrozenBatchNorm2d if norm == "frozen" else nn.BatchNorm2d
    try:
        return torchvision.models.get_model(
            name,
            weights=None,
            norm_layer=norm_layer,
            replace_stride_with_dilation=[False, False, dilation],
        )
    except NotImplementedError:
        raise UserError(
            f"--dilation: {name} has basic blocks, which do not support dilation; "
            "use --backbone resnet50 or deeper"
        ) from None


def known_resnets() -> list[str]:
    """Names of the ResNets, ResNeXts and wide ResNets of torchvision."""
    return torchvision.models.list_models(torchvision.models, include=_RESNETS)


def match_resnet(state: Mapping[str, Tensor]) -> str | None:
    """Name of the torchvision ResNet with the shapes of a detector's backbone, or None.

    Args:
        state: state dict of a `models.detr.DETR`.
    """
    found = {
        key.removeprefix(BODY): value.shape
        for key, value in state.items()
        if key.startswith(BODY) and value.dim() == 4
    }
    names = ("resnet50", "resnet101", *known_resnets())  # most common first
    return next((name for name in names if _convolution_shapes(name) == found), None)


@functools.cache
def _convolution_shapes(name: str) -> dict[str, torch.Size]:
    """Shapes of the convolution weights of a torchvision ResNet, by key."""
    with torch.device("meta"):
        resnet = torchvision.models.get_model(name, weights=None)
    return {key: v.shape for key, v in resnet.state_dict().items() if v.dim() == 4}


def _output_channels(stage: nn.Module) -> int:
    """Output channels of the last convolution of a ResNet stage."""
    last_block = list(stage.children())[-1]
    convolutions = [m for m in last_block.children() if isinstance(m, nn.Conv2d)]
    return convolutions[-1].out_channels


def stage_channels(backbone: nn.Module) -> list[int]:
    """Number of channels of the four feature maps of a backbone, fine to coarse.

    A backbone that is not a `BackboneBase` may have an attribute ``stage_channels``; the default is
    ResNet-50's channels, as in the original.

    Raises:
        ValueError: if a `BackboneBase` returns only the last feature map.
    """
    if not isinstance(backbone, BackboneBase):
        return list(getattr(backbone, "stage_channels", _RESNET50_CHANNELS))
    stages = [stage for name, stage in backbone.body.items() if name.startswith("layer")]
    if len(backbone.body.return_layers) != len(stages):
        raise ValueError("masks need a backbone with return_interm_layers=True")
    return [_output_channels(stage) for stage in stages]


def load_resnet_weights(resnet: nn.Module, name: str, weights: str) -> None:
    """Load the pretrained weights of a ResNet, in place.

    Args:
        resnet: torchvision ResNet, with or without ``fc``.
        name: its name in ``torchvision.models``.
        weights: see `Backbone`.

    Raises:
        UserError: if the weights cannot be loaded.
    """
    if weights not in ("imagenet", "none"):
        _load_weights_file(resnet, Path(weights))
    elif weights == "imagenet" and is_main_process():  # `training.network.distribute` broadcasts
        resnet.load_state_dict(_fetch_imagenet_weights(name), strict=False)


def _fetch_imagenet_weights(name: str) -> dict[str, Tensor]:
    weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as err:
        raise UserError(
            f"ImageNet weights of {name} could not be downloaded from {weights.url} ({err}): use "
            "--backbone_weights PATH, or --backbone_weights none to start from random weights"
        ) from err


def _load_weights_file(backbone: nn.Module, path: Path) -> None:
    """Load a torchvision file or the backbone of a DETR checkpoint; ``fc`` may be missing."""
    state = model_state(load_checkpoint(path), str(path))
    prefixes = (DETECTOR_PREFIX + BODY, BODY, "")
    prefix = next(p for p in prefixes if any(key.startswith(p) for key in state))
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    expected = backbone.state_dict()
    mismatched = [
        key
        for key, tensor in expected.items()
        if not key.startswith("fc.")
        and not key.endswith("num_batches_tracked")
        and (key not in state or state[key].shape != tensor.shape)
    ]
    if mismatched:
        raise UserError(
            f"--backbone_weights {path}: {len(mismatched)} tensors are missing or differ in shape, "
            f"the first is {mismatched[0]}; use a file for this --backbone"
        )
    usable = {k: v for k, v in state.items() if k in expected and v.shape == expected[k].shape}
    backbone.load_state_dict(usable, strict=False)


class Joiner(nn.Sequential):
    """Backbone and positional encoding in sequence."""

    def __init__(self, backbone: nn.Module, position_embedding: nn.Module):
        super().__init__(backbone, position_embedding)
        self.num_channels: int = backbone.num_channels  # type: ignore[assignment]
        self.encodes_all = not isinstance(position_embedding, PositionEmbeddingLearned)

    def forward(self, tensor_list: NestedTensor):  # type: ignore[no-untyped-def]
        """Compute feature maps and their positional encodings.

        Args:
            tensor_list: images (B, 3, H, W) with a padding mask (B, H, W).

        Returns:
            the feature maps, fine to coarse, and a list of their encodings (B, C, H, W), in the
            same dtype. Learned positions, which do not cover finer maps, encode the last map only.
        """
        features: dict[str, NestedTensor] = self[0](tensor_list)
        out: list[NestedTensor] = []
        positions: list[Tensor] = []
        for number, feature in enumerate(features.values(), start=1):
            out.append(feature)
            if self.encodes_all or number == len(features):
                positions.append(self[1](feature).to(feature.tensors.dtype))
        return out, positions


def build_backbone(args: Any) -> Joiner:
    """Build backbone and positional encoding from the flags.

    No weights are loaded here if ``--resume``, ``--finetune`` or ``--frozen_weights`` provides
    them.

    Raises:
        UserError: if flags contradict each other, or the weights cannot be loaded.
    """
    is_trained = args.lr_backbone > 0
    norm, weights = option(args, "backbone_norm"), option(args, "backbone_weights")
    if norm == "batch" and not is_trained:
        raise UserError(
            "--backbone_norm batch with --lr_backbone 0: "
            "a frozen backbone needs --backbone_norm frozen"
        )
    flags = ("resume", "finetune", "frozen_weights")
    is_provided = any(getattr(args, flag, None) for flag in flags)
    backbone = Backbone(
        args.backbone,
        train_backbone=is_trained,
        return_interm_layers=bool(args.masks),
        dilation=bool(args.dilation),
        weights="none" if is_provided else weights,
        norm=norm,
    )
    return Joiner(backbone, build_position_encoding(args))

"""Read the architecture flags of a DETR from its weights, and build the model."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from models.backbone import BODY, match_resnet
from models.detr import build_detector
from models.panoptic import SEGMENT_THRESHOLDS
from models.position_encoding import LEARNED_CELLS
from models.segmentation import DETRsegm
from models.weights import (
    DETECTOR_PREFIX,
    architecture_flags,
    assumed_cls_loss,
    load_model_state,
)
from util.errors import UserError


@dataclass(frozen=True)
class Architecture:
    """The flags of main.py that determine keys, shapes and outputs of a model.

    The shapes of the weights determine all flags except ``dilation``, ``cls_loss``,
    ``overlap_penalty`` and, without masks, ``nheads``.
    """

    backbone: str = "resnet50"
    dilation: bool = False
    position_embedding: str = "sine"
    enc_layers: int = 6
    dec_layers: int = 6
    dim_feedforward: int = 2048
    hidden_dim: int = 256
    nheads: int = 8
    num_queries: int = 100
    pre_norm: bool = False
    masks: bool = False
    num_classes: int = 91
    query_design: str = "learned"
    cls_loss: str = "ce"
    overlap_penalty: float = 0.0

    @classmethod
    def of(
        cls, state: Mapping[str, Tensor], known: Mapping[str, Any], source: str
    ) -> "Architecture":
        """Infer the architecture from weights.

        Args:
            state: state dict of a model of `models.detr` or `models.segmentation`.
            known: flags by name, for ``dilation``, ``nheads``, ``cls_loss``, ``overlap_penalty``
                and ``backbone``; others are ignored. Without ``nheads`` a mask head determines it,
                else it is 8.
            source: file or address of the weights, for error messages.

        Raises:
            UserError: the weights are not of a DETR, or do not fit the number of heads.
        """
        parts = {key.removeprefix(DETECTOR_PREFIX): value for key, value in state.items()}
        if "class_embed.bias" not in parts or BODY + "conv1.weight" not in parts:
            raise UserError(
                f"{source}: contains no DETR model (no class_embed or no {BODY}conv1), "
                "give a checkpoint of main.py or a released file"
            )
        inferred = architecture_flags(parts)
        if inferred["masks"]:  # its first layer reads the features and a map per head
            channels = parts["mask_head.lay1.weight"].shape[:1].numel()
            inferred["nheads"] = channels - inferred.get("hidden_dim", 0)
        inferred["cls_loss"] = assumed_cls_loss(parts)
        names = ("dilation", "nheads", "cls_loss", "overlap_penalty")
        given = {name: known[name] for name in names if known.get(name) is not None}
        named = known.get("backbone")
        backbone = named if named and isinstance(named, str) else match_resnet(parts)
        if backbone is None:
            raise UserError(f"{source}: its backbone does not match any torchvision ResNet")
        architecture = cls(backbone=backbone, **(inferred | given))
        _check_flags(architecture, source)
        architecture._check_shapes(state, source)
        return architecture

    def _check_shapes(self, state: Mapping[str, Tensor], source: str) -> None:
        """Compare all shapes with those of the model, before memory is allocated for it."""
        try:
            with torch.device("meta"), warnings.catch_warnings(action="ignore"):
                load_model_state(self.build(), state, source, flags_of_main=False)
        except UserError:
            raise
        except Exception as err:  # a foreign file can have any shapes
            reason = " ".join(str(err).split())
            raise UserError(f"{source}: its shapes do not match any DETR ({reason:.200})") from err

    @property
    def largest_side(self) -> float:
        """Maximum side of an image in pixels; infinite except for learned positions."""
        if self.position_embedding != "learned":
            return math.inf
        return LEARNED_CELLS * (16 if self.dilation else 32)

    def flags(self) -> dict[str, Any]:
        """The flags by name, as in the ``args`` of a checkpoint."""
        return asdict(self)

    def build(self) -> nn.Module:
        """Build the model in evaluation mode, randomly initialized with a fixed seed.

        Raises:
            UserError: the backbone does not exist, or flags contradict each other.
        """
        flags = _Flags(**self.flags())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            detr = build_detector(flags, self.num_classes)
            model: nn.Module = DETRsegm(detr) if self.masks else detr
        return model.eval()


@dataclass(frozen=True)
class _Flags(Architecture):
    """All flags that the builders read; in evaluation, frozen and plain batch norm are equal."""

    lr_backbone: float = 0.0
    dropout: float = 0.0
    backbone_weights: str = "none"
    backbone_norm: str = "frozen"
    aux_loss: bool = False


FLAG_NAMES = tuple(field.name for field in fields(Architecture))


_LAST_LAYERS = (
    *("class_embed.weight", "bbox_embed.layers.2.weight"),
    *("linear_class.weight", "linear_bbox.weight"),  # heads of detr_demo
)


@torch.no_grad()
def amplify_random_weights(model: nn.Module) -> None:
    """Scale up random weights so that outputs depend on image, padding mask and query.

    With the initial weights of training, all queries predict nearly the same box, and a comparison
    of outputs would not detect exchanged queries.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("in_proj_weight"):
            parameter[: len(parameter) * 2 // 3].mul_(3)  # query and key projections
        elif name.endswith(("query_embed.weight", "query_pos")):
            parameter.mul_(3)
        elif name.endswith(_LAST_LAYERS):
            parameter.mul_(5)
        elif name.endswith("offset_mlp.layers.2.weight"):  # initially zero
            nn.init.xavier_uniform_(parameter)


def _check_flags(architecture: Architecture, source: str) -> None:
    """Raise a UserError for saved flags that no model can have and that shapes do not determine."""
    kind = type(architecture.dilation)
    if kind is not bool:
        raise UserError(f"{source}: its flag dilation is of type {kind.__name__}, not bool")
    if architecture.cls_loss not in tuple(SEGMENT_THRESHOLDS):  # it may be of any type
        losses = " or ".join(SEGMENT_THRESHOLDS)
        raise UserError(
            f"{source}: its flag cls_loss is {architecture.cls_loss!r:.50}, not {losses}"
        )
    penalty = architecture.overlap_penalty
    if type(penalty) not in (int, float) or not 0 <= penalty < math.inf:
        raise UserError(f"{source}: its flag overlap_penalty is {penalty!r:.50}, not a number >= 0")
    channels, heads = architecture.hidden_dim, architecture.nheads
    if type(heads) is not int or heads < 1 or channels % heads:
        raise UserError(f"{source}: --nheads {heads} does not divide its {channels} channels")

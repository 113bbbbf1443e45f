"""What a DETR is made of, as far as a file with weights tells, and the model built from that."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from models.backbone import BODY, build_backbone, resnet_of
from models.detr import DETR
from models.position_encoding import LEARNED_CELLS
from models.segmentation import DETRsegm
from models.transformer import build_transformer
from models.weights import DETECTOR_PREFIX, architecture_flags
from util.errors import UserError


@dataclass(frozen=True)
class Architecture:
    """The flags of main.py that decide on keys, shapes and numbers of a model.

    Shapes tell all but two of them: ``dilation`` and ``nheads`` leave no trace in the weights.
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

    @classmethod
    def of(
        cls, state: Mapping[str, Tensor], told: Mapping[str, Any], source: str
    ) -> "Architecture":
        """The architecture that weights belong to.

        Args:
            state: state dict of a DETR, as of `models.detr` or `models.segmentation`.
            told: what is known beside the shapes, by name of the flag; other names are passed over.
            source: where the weights came from, for the message.

        Raises:
            UserError: these are no weights of a DETR, or cannot have that number of heads.
        """
        parts = {key.removeprefix(DETECTOR_PREFIX): value for key, value in state.items()}
        if "class_embed.bias" not in parts or BODY + "conv1.weight" not in parts:
            raise UserError(
                f"{source}: holds no DETR model (no class_embed or no {BODY}conv1), "
                "give a checkpoint of main.py or a released file"
            )
        shapes = {k.removeprefix("--"): v for k, v in architecture_flags(state).items()}
        seen: dict[str, Any] = {
            **shapes,
            "masks": "mask_head.lay1.weight" in parts,
            "pre_norm": "transformer.encoder.norm.weight" in parts,
        }
        silent = {k: told[k] for k in ("dilation", "nheads") if told.get(k) is not None}
        backbone = told.get("backbone") or resnet_of(parts)
        if backbone is None:
            raise UserError(f"{source}: its backbone has the shapes of no ResNet of torchvision")
        found = cls(backbone=backbone, **{**seen, **silent})
        _check_heads(found, source)
        return found

    @property
    def largest_side(self) -> float:
        """Most pixels that a side of an image may have: infinite but for learned positions."""
        stride = 16 if self.dilation else 32
        return LEARNED_CELLS * stride if self.position_embedding == "learned" else math.inf

    def flags(self) -> dict[str, Any]:
        """As the ``args`` of a checkpoint."""
        return asdict(self)

    def build(self) -> nn.Module:
        """The model in evaluation mode, with random weights, the same every time; see `liven`.

        Raises:
            UserError: there is no such model.
        """
        flags = _Flags(**self.flags())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            detr = DETR(
                build_backbone(flags),
                build_transformer(flags),
                num_classes=self.num_classes,
                num_queries=self.num_queries,
            )
            model: nn.Module = DETRsegm(detr) if self.masks else detr
        return model.eval()


@dataclass(frozen=True)
class _Flags(Architecture):
    """All flags that the builders read; batch norm computes the same frozen or not."""

    lr_backbone: float = 0.0
    dropout: float = 0.0
    backbone_weights: str = "none"
    backbone_norm: str = "frozen"


FLAG_NAMES = tuple(field.name for field in fields(Architecture))


@torch.no_grad()
def liven(model: nn.Module) -> None:
    """Enlarge random weights, so that outputs depend on image, padding mask and query.

    With the weights that training starts from all queries give nearly the same boxes, and comparing
    outputs would not notice queries that change places.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("in_proj_weight"):
            parameter[: len(parameter) * 2 // 3].mul_(3)  # queries and keys: attention that selects
        elif name.endswith("query_embed.weight"):
            parameter.mul_(3)
        elif name.endswith(("class_embed.weight", "bbox_embed.layers.2.weight")):
            parameter.mul_(5)


def _check_heads(architecture: Architecture, source: str) -> None:
    """Each head takes an equal share of the channels."""
    channels, heads = architecture.hidden_dim, architecture.nheads
    if not isinstance(heads, int) or heads < 1 or channels % heads:
        raise UserError(f"{source}: --nheads {heads} does not divide its {channels} channels")

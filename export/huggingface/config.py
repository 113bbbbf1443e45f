"""Write and read ``config.json`` of Hugging Face's DETR."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from export.architecture import Architecture
from export.huggingface.entries import Entries, short
from export.loaded_model import LoadedModel
from models.backbone import known_resnets
from util.category_ids import CategoryIds, OwnId
from util.errors import UserError

_UNNAMED = "LABEL_"  # prefix of class names that transformers generates
_UNUSED = "N/A"  # name of labels without a class, as in the released models
# Our own keys, which transformers keeps: user's id of each label, none if it is the label; whether
# each label is a thing; labels without a class; default scores of detections and of the segments of
# panoptic models.
_CATEGORY_IDS, _IS_THING, _UNUSED_LABELS = "category_ids", "is_thing", "unused_labels"
_BEST_F1, _SEGMENTS = "best_f1_threshold", "panoptic_threshold"
_DC5_STRIDE = 16


def write_config(
    architecture: Architecture, state: Mapping[str, Tensor], model: LoadedModel
) -> dict[str, Any]:
    """Create the ``config.json`` of a model.

    The backbone is the ResNet of transformers; DC5 models use timm, because the ResNet of
    transformers has no dilation.

    Args:
        state: weights under our key names.
        model: its classes. Rows of the classification head are their labels.

    Raises:
        UserError: Hugging Face has no equivalent model.
    """
    a = architecture
    _refuse_unsupported(a)
    timm = {"use_timm_backbone": True, "backbone": a.backbone}
    return {
        "model_type": "detr",
        "architectures": ["DetrForSegmentation" if a.masks else "DetrForObjectDetection"],
        "d_model": a.hidden_dim,
        **_sizes_of_stacks(a),
        "num_queries": a.num_queries,
        "activation_function": "relu",
        "position_embedding_type": a.position_embedding,
        "auxiliary_loss": False,
        **_classes_of(model),
        **_thresholds_of(model),
        "dilation": a.dilation,
        "use_pretrained_backbone": False,  # transformers 4 would download ImageNet weights
        **(timm if a.dilation else _own_backbone(a, state)),
    }


def _classes_of(model: LoadedModel) -> dict[str, Any]:
    ids = model.rows()
    names = [model.categories.get(n, f"{_UNNAMED}{row}") for row, n in enumerate(ids.by_row)]
    own_ids = ids.saved()
    unused = [row for row, n in enumerate(ids.by_row) if n in model.unused_ids]
    things = {
        str(row): model.is_thing[n] for row, n in enumerate(ids.by_row) if n in model.is_thing
    }
    return {
        "id2label": {str(row): name for row, name in enumerate(names)},
        "label2id": {name: row for row, name in enumerate(names)},
        **({} if own_ids is None else {_CATEGORY_IDS: own_ids}),
        **({_IS_THING: things} if things else {}),
        **({_UNUSED_LABELS: unused} if unused else {}),
    }


def _thresholds_of(model: LoadedModel) -> dict[str, float]:
    best = {} if model.best_threshold is None else {_BEST_F1: model.best_threshold}
    return best | ({_SEGMENTS: model.segment_threshold} if model.is_panoptic else {})


def _sizes_of_stacks(architecture: Architecture) -> dict[str, int]:
    a = architecture
    sizes = {}
    for stack, num_layers in (("encoder", a.enc_layers), ("decoder", a.dec_layers)):
        sizes[f"{stack}_layers"] = num_layers
        sizes[f"{stack}_ffn_dim"] = a.dim_feedforward
        sizes[f"{stack}_attention_heads"] = a.nheads
    return sizes


def _refuse_unsupported(architecture: Architecture) -> None:
    a = architecture
    if a.query_design != "learned" or a.cls_loss != "ce":
        raise UserError(
            "--query_design anchor and --cls_loss focal: Hugging Face's DETR has neither"
        )
    if a.pre_norm:
        raise UserError("--pre_norm: Hugging Face's DETR has post-norm layers only")
    if a.masks:
        widths = [a.hidden_dim + a.nheads, *(a.hidden_dim // 2**k for k in range(1, 5))]
        if any(min(8, width) != math.gcd(8, width) for width in widths):
            raise UserError(
                f"--hidden_dim {a.hidden_dim}, --nheads {a.nheads}: Hugging Face's mask head needs "
                f"layers of 1, 2, 4 or a multiple of 8 channels, here {widths}"
            )


def _own_backbone(architecture: Architecture, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The ResNet of transformers, from the shapes of the stages."""
    body = {k.split("0.body.")[1]: v for k, v in state.items() if "0.body." in k}
    stages = [
        {k: v for k, v in body.items() if k.startswith(f"layer{i}.") and v.dim() == 4}
        for i in range(1, 5)
    ]
    is_bottleneck = "layer1.0.conv3.weight" in body
    last = "conv3.weight" if is_bottleneck else "conv2.weight"
    widths = [
        next(len(v) for k, v in stage.items() if k.endswith(f".0.{last}")) for stage in stages
    ]
    _refuse_other_resnets(architecture, body, widths if is_bottleneck else None)
    return {
        "use_timm_backbone": False,
        "backbone": None,
        "backbone_config": {
            "model_type": "resnet",
            "embedding_size": len(body["conv1.weight"]),
            "hidden_sizes": widths,
            "depths": [sum(k.endswith(".conv1.weight") for k in stage) for stage in stages],
            "layer_type": "bottleneck" if is_bottleneck else "basic",
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
    }


def _refuse_other_resnets(
    architecture: Architecture, body: Mapping[str, Tensor], widths: list[int] | None
) -> None:
    """Raise a UserError for bottlenecks with groups or another width than stage / 4."""
    if widths is None:
        return
    inner = tuple(body["layer1.0.conv2.weight"].shape[:2])
    if inner != (widths[0] // 4, widths[0] // 4):
        raise UserError(
            f"--backbone {architecture.backbone}: Hugging Face's ResNet has no groups or wide "
            "blocks"
        )


def read_config(config: Mapping[str, Any], source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the flags that the shapes of the weights do not determine, and the classes.

    Args:
        config: content of ``config.json``.
        source: path of the file, for error messages.

    Returns:
        Flags of main.py, for `export.architecture.Architecture.of` and ``panoptic_threshold`` if
        the file has it; and the entries ``categories``, ``is_thing``, ``category_ids`` and, if the
        file has them, ``thresholds`` of a checkpoint; ``unused_ids``: category ids of labels
        without a class. Labels with a generated name may be classes.

    Raises:
        UserError: the model is not a DETR, has no equivalent here, or has an invalid threshold.
    """
    entries = Entries(config, source)
    entries.require(model_type="detr", activation_function="relu", num_channels=3)
    heads = {entries.get(f"{stack}_attention_heads", int, 8) for stack in ("encoder", "decoder")}
    if len(heads) > 1:
        raise UserError(
            f"{source}: has {sorted(heads)} attention heads; encoder and decoder of our DETR must "
            "have the same number"
        )
    flags: dict[str, Any] = {"nheads": heads.pop(), "dilation": _read_backbone(entries)}
    classes, best = _read_classes(entries), _read_score(entries, _BEST_F1)
    if best is not None:
        classes["thresholds"] = {"best_f1": best}
    if (segments := _read_score(entries, _SEGMENTS)) is not None:
        flags["panoptic_threshold"] = segments
    return flags, classes


def _read_score(entries: Entries, name: str) -> float | None:
    """The entry ``name``, a score from 0 to 1; None if it is missing or null."""
    value = entries.values.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise UserError(f"{entries.source}: {name} is {short(value)}, not a score from 0 to 1")
    return float(value)


def uses_timm(config: Mapping[str, Any]) -> bool:
    """Whether the backbone in a ``config.json`` is a timm model, not a ResNet of transformers."""
    backbone = config.get("backbone_config")
    if backbone:
        return bool(backbone.get("model_type") == "timm_backbone")
    return config.get("use_timm_backbone") is not False


def _read_backbone(entries: Entries) -> bool:
    """Check that the backbone is a ResNet of torchvision; return whether it is dilated (DC5)."""
    own = entries.part("backbone_config")
    if uses_timm(entries.values):
        options = entries.part("backbone_kwargs")
        _refuse_unknown_options(options)
        default = _DC5_STRIDE if entries.get("dilation", bool, False) and not own.values else 32
        stride = (own if own.values else options).get("output_stride", int, default)
        if stride not in (_DC5_STRIDE, 32):
            raise UserError(
                f"{entries.source}: output_stride is {stride}; it must be 32, or 16 for DC5"
            )
        name = (own if own.values else entries).get("backbone", str, "resnet50")
        _check_timm_name(name, entries.source)
        return stride == _DC5_STRIDE
    if not own.values:
        entries.require(backbone="resnet50")  # another name may be any model of the hub
    own.require(model_type="resnet", num_channels=3, hidden_act="relu")
    own.require(downsample_in_bottleneck=False, downsample_in_first_stage=False)
    return False


def _refuse_unknown_options(options: Entries) -> None:
    """Raise a UserError for options of timm that change the model."""
    options.require(in_chans=3, num_channels=3)
    known = {"out_indices", "output_stride", "in_chans", "num_channels", "features_only"}
    unknown = [name for name in options.values if name not in known]
    if unknown:
        raise UserError(
            f"{options.source}: backbone_kwargs has {unknown[0]}, which our ResNets do not support"
        )


def _check_timm_name(name: str, source: str) -> None:
    """Raise a UserError if timm's model ``name`` is not a ResNet of torchvision."""
    if name.partition(".")[0].removeprefix("tv_") not in known_resnets():
        raise UserError(
            f"{source}: the backbone {short(name)} of timm is not a ResNet of torchvision"
        )


def _read_classes(entries: Entries) -> dict[str, Any]:
    """Class names without generated names, things, and category ids, see `read_config`."""
    labels = {row: str(name) for row, name in _by_label(entries, "id2label").items()}
    unnamed = (_UNUSED, *(f"{_UNNAMED}{row}" for row in labels))
    things = {row: flag for row, flag in _by_label(entries, _IS_THING).items() if row in labels}
    category_ids: list[OwnId] | None = entries.values.get(_CATEGORY_IDS)
    id_of: Mapping[int, int] | Sequence[int] = {row: row for row in labels}
    if category_ids is not None:
        try:
            id_of = CategoryIds.read(category_ids, max(labels, default=-1) + 1).by_row
        except ValueError as error:
            raise UserError(f"{entries.source}: {error}") from error
    without_class = {row for row, name in labels.items() if name == _UNUSED}
    if isinstance(stated := entries.values.get(_UNUSED_LABELS), list):
        without_class |= {row for row in labels if row in stated}
    return {
        "categories": {id_of[row]: name for row, name in labels.items() if name not in unnamed},
        "is_thing": {id_of[row]: flag for row, flag in things.items() if type(flag) is bool},
        "category_ids": category_ids,
        "unused_ids": sorted(id_of[row] for row in without_class),
    }


def _by_label(entries: Entries, name: str) -> dict[int, Any]:
    """An entry with labels as keys."""
    found = entries.get(name, dict, {})
    try:
        by_label = {int(label): value for label, value in found.items()}
    except ValueError:
        by_label = {-1: None}
    if min(by_label, default=0) < 0:
        raise UserError(f"{entries.source}: {name} has ids that are not numbers")
    return by_label

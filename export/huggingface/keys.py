"""Convert state dicts between our key names and Hugging Face's DETR.

The names are the keys of files that ``save_pretrained`` writes; transformers 5 uses other names in
memory and converts. Besides names, attention differs: Hugging Face stores query, key and value
projections as three tensors, we store one. The ResNet has the names of transformers or of timm.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from export.key_names import Renaming, inside_detector, rename_all, with_prefixes

_OURS_BODY = "backbone.0.body."
_THEIR_BODY = "model.backbone.conv_encoder.model."
_EMBEDDER = ".embedder."  # only in the ResNet of transformers
_PROJECTION = re.compile(r"(.*_attn\.)([qkv])_proj\.(weight|bias)")
_PROJECTIONS = re.compile(r"(.*_attn\.)in_proj_(weight|bias)")

_BLOCK = "encoder.stages.{i-1}.layers.{k}."
_RESNET = [
    ("conv1.{name*}", "embedder.embedder.convolution.{name*}"),
    ("bn1.{name*}", "embedder.embedder.normalization.{name*}"),
    ("layer{i}.{k}.conv{j}.{name*}", _BLOCK + "layer.{j-1}.convolution.{name*}"),
    ("layer{i}.{k}.bn{j}.{name*}", _BLOCK + "layer.{j-1}.normalization.{name*}"),
    ("layer{i}.{k}.downsample.0.{name*}", _BLOCK + "shortcut.convolution.{name*}"),
    ("layer{i}.{k}.downsample.1.{name*}", _BLOCK + "shortcut.normalization.{name*}"),
]
_TIMM_RESNET = [("{name*}", "{name*}")]  # same names in timm and torchvision
_LAYER = [
    ("self_attn.{name*}", "self_attn.{name*}"),
    ("linear{i}.{name*}", "fc{i}.{name*}"),
    ("norm1.{name*}", "self_attn_layer_norm.{name*}"),
]
_ENCODER_LAYER = [*_LAYER, ("norm2.{name*}", "final_layer_norm.{name*}")]
_DECODER_LAYER = [
    *_LAYER,
    ("multihead_attn.{name*}", "encoder_attn.{name*}"),
    ("norm2.{name*}", "encoder_attn_layer_norm.{name*}"),
    ("norm3.{name*}", "final_layer_norm.{name*}"),
]
_TRANSFORMER = [
    *with_prefixes(_ENCODER_LAYER, "transformer.encoder.layers.{n}.", "model.encoder.layers.{n}."),
    *with_prefixes(_DECODER_LAYER, "transformer.decoder.layers.{n}.", "model.decoder.layers.{n}."),
    ("transformer.decoder.norm.{name*}", "model.decoder.layernorm.{name*}"),
]
# Learned positions have another name in transformers 4; we write both.
_POSITIONS, _POSITIONS_4 = "model.position_embedding.", "model.backbone.position_embedding."
_LEARNED = [
    ("row_embed.{name*}", "row_embeddings.{name*}"),
    ("col_embed.{name*}", "column_embeddings.{name*}"),
]
_HEADS = [
    *with_prefixes(_LEARNED, "backbone.1.", _POSITIONS),
    *with_prefixes(_LEARNED, "backbone.1.", _POSITIONS_4),
    ("input_proj.{name*}", "model.input_projection.{name*}"),
    ("query_embed.{name*}", "model.query_position_embeddings.{name*}"),
    ("class_embed.{name*}", "class_labels_classifier.{name*}"),
    ("bbox_embed.{name*}", "bbox_predictor.{name*}"),
    ("mask_head.{name*}", "mask_head.{name*}"),
    ("bbox_attention.{name*}", "bbox_attention.{name*}"),
]
_RENAMINGS = {
    timm: Renaming(
        with_prefixes(_TIMM_RESNET if timm else _RESNET, _OURS_BODY, _THEIR_BODY)
        + _TRANSFORMER
        + _HEADS
    )
    for timm in (False, True)
}


def to_huggingface(state: Mapping[str, Tensor], timm: bool, source: str) -> dict[str, Tensor]:
    """Rename the keys of this project's weights to those of Hugging Face.

    Batch counters of batch norms are left out, because Hugging Face's batch norms are frozen.

    Learned positions are stored twice, under the names of transformers 4 and of transformers 5.

    Args:
        timm: use timm's names for the ResNet instead of transformers'.
        source: file or address of the weights, for error messages.

    Raises:
        UserError: a key has no equivalent.
    """
    kept = {k: v for k, v in state.items() if not k.endswith(".num_batches_tracked")}
    split = _split_projections(kept)
    theirs = rename_all(split, inside_detector(_RENAMINGS[timm].to_theirs), source)
    old = {key.replace(_POSITIONS, _POSITIONS_4): v for key, v in theirs.items()}
    return theirs | old


def is_name_of_other_version(key: str) -> bool:
    """Whether this is a key of learned positions, which another version of transformers reads."""
    return _POSITIONS in key or _POSITIONS_4 in key


def from_huggingface(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Rename the keys of Hugging Face weights to those of this project.

    Args:
        state: content of a file of ``save_pretrained``.
        source: path of the file, for error messages.

    Raises:
        UserError: a key has no equivalent.
    """
    timm = not any(_EMBEDDER in key for key in state)
    renamed = rename_all(state, inside_detector(_RENAMINGS[timm].to_ours), source)
    return _join_projections(renamed)


def _split_projections(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``in_proj_weight`` -> ``q_proj.weight``, ``k_proj.weight``, ``v_proj.weight``."""
    split: dict[str, Tensor] = {}
    for key, tensor in state.items():
        match = _PROJECTIONS.fullmatch(key)
        if match is None:
            split[key] = tensor
        else:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                split[f"{match[1]}{letter}_proj.{match[2]}"] = part
    return split


def _join_projections(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    joined: dict[str, Tensor] = {}
    for key, tensor in state.items():
        match = _PROJECTION.fullmatch(key)
        if match is None:
            joined[key] = tensor
        elif match[2] == "q":
            names = [f"{match[1]}{letter}_proj.{match[3]}" for letter in "qkv"]
            parts = [state[name] for name in names if name in state]
            joined[f"{match[1]}in_proj_{match[3]}"] = torch.cat(parts)
    return joined

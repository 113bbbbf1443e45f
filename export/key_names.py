"""Names of the tensors in other codebases: pairs of patterns, and those of Detectron2."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial

from torch import Tensor

from models.weights import DETECTOR_PREFIX
from util.errors import UserError

_FIELD = re.compile(r"\{(\w+)([+-]\d+)?(\*?)\}")
# torchvision's names and Detectron2's. There, the norm is a submodule of the convolution; its pairs
# come first, so that the other keys of the convolution match afterwards.
_RESNET = [
    ("bn1.{name*}", "stem.conv1.norm.{name*}"),
    ("conv1.{name*}", "stem.conv1.{name*}"),
    ("layer{i}.{k}.bn{j}.{name*}", "res{i+1}.{k}.conv{j}.norm.{name*}"),
    ("layer{i}.{k}.conv{j}.{name*}", "res{i+1}.{k}.conv{j}.{name*}"),
    ("layer{i}.{k}.downsample.1.{name*}", "res{i+1}.{k}.shortcut.norm.{name*}"),
    ("layer{i}.{k}.downsample.0.{name*}", "res{i+1}.{k}.shortcut.{name*}"),
]
_STEM = "stem.conv1.weight"
# Rows of a head for COCO's 80 classes, without the gaps in the category ids, and "no object".
_ROWS_OF_80 = 81
# Tensors outside the model: image normalization of the meta-architecture, weights of the loss.
_NOT_OF_THE_MODEL = ("pixel_mean", "pixel_std", "criterion.empty_weight")


class Renaming:
    """A mapping between the key names of two codebases.

    Args:
        pairs: (our pattern, their pattern). ``{i}`` matches a number, ``{i-1}`` and ``{i+1}`` the
            number minus and plus one, ``{rest*}`` any text. The first pair that matches a whole key
            renames it.

    >>> renaming = Renaming([("layer{i}.conv{k}.{rest*}", "stages.{i-1}.layer.{k-1}.{rest*}")])
    >>> renaming.to_theirs("layer1.conv2.weight")
    'stages.0.layer.1.weight'
    >>> renaming.to_ours("stages.0.layer.1.weight")
    'layer1.conv2.weight'
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]):
        self._pairs = list(pairs)

    def to_theirs(self, key: str) -> str | None:
        """Their name of ``key``; None if no pair matches."""
        return _rename(key, self._pairs)

    def to_ours(self, key: str) -> str | None:
        """Our name of ``key``; None if no pair matches."""
        return _rename(key, [(theirs, ours) for ours, theirs in self._pairs])


def _rename(key: str, pairs: Sequence[tuple[str, str]]) -> str | None:
    for source, target in pairs:
        match = re.fullmatch(_as_expression(source), key)
        if match:
            values = _values(source, match)
            return _FIELD.sub(partial(_format_field, values=values), target)
    return None


@cache
def _as_expression(pattern: str) -> str:
    """The regular expression of a pattern, with one group per field."""
    expression, position = "", 0
    for found in _FIELD.finditer(pattern):
        expression += re.escape(pattern[position : found.start()])
        expression += "(.*)" if found[3] else r"(\d+)"
        position = found.end()
    return expression + re.escape(pattern[position:])


def _values(pattern: str, match: re.Match[str]) -> dict[str, str | int]:
    """Values of the fields in a matched key; numbers without the offset of the pattern."""
    values: dict[str, str | int] = {}
    for found, text in zip(_FIELD.finditer(pattern), match.groups(), strict=True):
        values[found[1]] = text if found[3] else int(text) - int(found[2] or 0)
    return values


def _format_field(found: re.Match[str], values: Mapping[str, str | int]) -> str:
    value = values[found[1]]
    return value if isinstance(value, str) else str(value + int(found[2] or 0))


def with_prefixes(
    pairs: Iterable[tuple[str, str]], ours: str, theirs: str
) -> list[tuple[str, str]]:
    """The pairs with a prefix added to each side."""
    return [(ours + left, theirs + right) for left, right in pairs]


def inside_detector(rename: Callable[[str], str | None]) -> Callable[[str], str | None]:
    """Extend ``rename`` to segmentation models, which hold the detector under ``detr.``."""

    def rename_inside(key: str) -> str | None:
        """Rename a key, with or without the prefix ``detr.``."""
        prefix = DETECTOR_PREFIX if key.startswith(DETECTOR_PREFIX) else ""
        name = rename(key.removeprefix(prefix))
        return None if name is None else prefix + name

    return rename_inside


def rename_all(
    state: Mapping[str, Tensor], rename: Callable[[str], str | None], source: str
) -> dict[str, Tensor]:
    """Rename all keys of a state dict.

    Args:
        rename: returns the new name, or None for an unknown key.
        source: file or address of the tensors, for error messages.

    Raises:
        UserError: a key is unknown.
    """
    names = {key: rename(key) for key in state}
    unknown = [key for key, name in names.items() if name is None]
    if unknown:
        raise UserError(
            f"{source}: {len(unknown)} keys cannot be converted, the first is {unknown[0]}"
        )
    return {str(names[key]): tensor for key, tensor in state.items()}


_BACKBONE = Renaming(
    [
        *with_prefixes(_RESNET, "backbone.0.body.", "backbone.0.backbone."),
        ("{rest*}", "{rest*}"),
    ]
)
_BARE_RESNET = Renaming(with_prefixes(_RESNET, "", ""))


def is_detectron2(state: Mapping[str, Tensor]) -> bool:
    """Whether the ResNet in a state dict has the key names of Detectron2."""
    return any(key.endswith(_STEM) for key in state)


def from_detectron2(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Convert weights to our key names.

    Args:
        state: a DETR whose backbone has Detectron2's names, on its own or under ``detr.`` in
            Detectron2's meta-architecture; or only a ResNet, converted to torchvision's names.
        source: file or address of the weights, for messages.

    Raises:
        UserError: a key is unknown.
    """
    parts = {key: v for key, v in state.items() if not key.startswith(_NOT_OF_THE_MODEL)}
    if _STEM in parts:
        bare = {key: v for key, v in parts.items() if not key.startswith(("linear.", "fc."))}
        return rename_all(bare, _BARE_RESNET.to_ours, source)
    if all(key.startswith(DETECTOR_PREFIX) for key in parts):  # inside the meta-architecture
        parts = {key.removeprefix(DETECTOR_PREFIX): value for key, value in parts.items()}
    renamed = rename_all(parts, inside_detector(_BACKBONE.to_ours), source)
    if any(k.endswith("class_embed.bias") and len(v) == _ROWS_OF_80 for k, v in renamed.items()):
        print(
            f"{source}: the head has 81 rows: labels are indices of COCO's 80 classes, not "
            'category ids; a head from the original\'s converter lacks "no object", see '
            "docs/export.md"
        )
    return renamed

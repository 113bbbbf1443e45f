"""Rename the keys of state dicts in both directions, by pairs of patterns."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial

from torch import Tensor

from models.weights import DETECTOR_PREFIX
from util.errors import UserError

_FIELD = re.compile(r"\{(\w+)([+-]\d+)?(\*?)\}")


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
        state: tensors by old name.
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

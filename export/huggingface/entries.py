"""Entries of the JSON files of Hugging Face, with checks."""

import math
from collections.abc import Mapping
from typing import Any

from util.errors import UserError


class Entries:
    """Entries of a JSON object, with checks.

    Args:
        source: path of the file, for error messages.
    """

    def __init__(self, values: Mapping[str, Any], source: str):
        self.values = values
        self.source = source

    def get(self, name: str, kind: type, default: Any) -> Any:
        """The entry ``name``, or ``default`` if it is missing or null.

        Raises:
            UserError: it is not of this kind.
        """
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            found = f"{name} is {short(value)}, not of type {kind.__name__}"
            raise UserError(f"{self.source}: {found}")
        return value

    def part(self, name: str) -> "Entries":
        """The object ``name``; empty if it is missing or null."""
        return Entries(self.get(name, dict, {}), self.source)

    def require(self, **ours: Any) -> None:
        """Check that entries, where present, have the values of our models.

        Raises:
            UserError: another value.
        """
        for name, expected in ours.items():
            value = self.values.get(name)
            if value is not None and not _is_same(value, expected):
                raise UserError(f"{self.source}: {name} is {short(value)}, expected {expected}")


def _is_same(value: Any, expected: Any) -> bool:
    if not isinstance(expected, tuple):
        expected, value = (expected,), (value,)
    if not isinstance(value, list | tuple) or len(value) != len(expected):
        return False
    return all(
        math.isclose(a, b, abs_tol=1e-6)
        if isinstance(b, float) and isinstance(a, int | float)
        else a == b
        for a, b in zip(value, expected, strict=True)
    )


def short(value: Any) -> str:
    """The value as text of at most 41 characters, for error messages."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"

"""The text beside a progress bar: losses, speed and time left, in the width of the terminal."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

# Entries that are left out first where the terminal is too narrow.
_LEAST_IMPORTANT_FIRST = ("lr", "speed", "parts", "left", "error", "loss")
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True)
class StepValues:
    """Values of a step that are shown beside the progress bar; None or NaN: unknown.

    Attributes:
        loss: weighted sum of all losses.
        parts: parts of the loss by their names in the line.
        class_error: class error of matched queries, in percent.
        lr: learning rate of all layers except the backbone.
        images_per_second: of all processes together.
        seconds_left: estimated time to the end of the loop, and to the end of the run.
    """

    loss: float = math.nan
    parts: Mapping[str, float] = field(default_factory=dict)
    class_error: float = math.nan
    lr: float | None = None
    images_per_second: float = math.nan
    seconds_left: tuple[float | None, ...] = ()


def step_line(values: StepValues, width: int) -> str:
    """Losses, class error, learning rate, speed and remaining time of a step.

    If the line would be too long, numbers get fewer digits; then the least important entries are
    omitted.

    Args:
        width: maximum length in characters.
    """
    for is_narrow in (False, True):
        entries = _entries(values, is_narrow)
        if len(_join(entries)) <= width:
            return _join(entries)
    for name in _LEAST_IMPORTANT_FIRST:
        entries.pop(name, None)
        if len(_join(entries)) <= width:
            break
    return _join(entries)


def short_number(value: float, length: int = 4) -> str:
    """A number with at most two decimals, in about ``length`` characters.

    >>> [short_number(x) for x in (0.123, 1.234, 12.34, 123.4, 123456.0)]
    ['0.12', '1.23', '12.3', '123', '1e5']
    >>> [short_number(x, length=3) for x in (0.123, 1.234, 12.34)]
    ['.12', '1.2', '12']
    """
    if not math.isfinite(value):
        return str(value)
    for decimals in (2, 1, 0):
        text = f"{value:.{decimals}f}"
        if length < 4:
            text = text.removeprefix("0") if "." in text else text
        if len(text) <= length:
            return text
    return scientific(value, decimals=0)


def scientific(value: float, decimals: int = 1) -> str:
    """A number in scientific notation, without needless zeros.

    >>> [scientific(x) for x in (1e-4, 3.46e-5, 0.0)]
    ['1e-4', '3.5e-5', '0']
    """
    if not value or not math.isfinite(value):
        return f"{value:.0f}"
    mantissa, exponent = f"{value:.{decimals}e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def short_duration(seconds: float | None, units: int = 2) -> str:
    """A duration in its two largest units, or in the largest; ``?`` if it is unknown.

    >>> [short_duration(x) for x in (7, 62, 7380, 273600, None)]
    ['7s', '1m02', '2h03', '3d04', '?']
    >>> short_duration(7380, units=1)
    '2h'
    """
    if seconds is None or not math.isfinite(seconds):
        return "?"
    whole = int(seconds)
    for (unit, size), (_, smaller) in itertools.pairwise(_SECONDS.items()):
        if whole >= size:
            rest = f"{whole % size // smaller:02d}" if units > 1 else ""
            return f"{whole // size}{unit}{rest}"
    return f"{whole}s"


def _entries(values: StepValues, is_narrow: bool) -> dict[str, str]:
    """Texts by name, in the order of the line; unknown entries are left out."""
    length = 3 if is_narrow else 4  # characters per number
    entries = {"loss": f"loss {short_number(values.loss, length)}"}
    if values.parts:
        parts = {"cls" if is_narrow and k == "class" else k: v for k, v in values.parts.items()}
        entries["parts"] = " ".join(f"{k} {short_number(v, length)}" for k, v in parts.items())
    if not math.isnan(values.class_error):
        entries["error"] = f"err {values.class_error:.0f}%"
    if values.lr is not None:
        entries["lr"] = f"lr {scientific(values.lr)}"
    if math.isfinite(values.images_per_second):
        entries["speed"] = f"{short_number(values.images_per_second, length)} img/s"
    if values.seconds_left:
        units = 1 if is_narrow else 2
        left = "/".join(short_duration(seconds, units) for seconds in values.seconds_left)
        entries["left"] = left if is_narrow else f"ETA {left}"
    return entries


def _join(entries: Mapping[str, str]) -> str:
    return " ".join(entries.values())

"""Text of messages and reports: singular and plural, lists of examples, shortened values."""

import re
import reprlib
from collections.abc import Sequence
from typing import Any

EXAMPLES_SHOWN = 3
_VALUE_LENGTH = 60  # characters
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = _VALUE_LENGTH

# Plural words at the beginning of a message, and their singular.
_SINGULAR = {
    "annotations": "annotation",
    "areas": "area",
    "boxes": "box",
    "categories": "category",
    "classes": "class",
    "files": "file",
    "images": "image",
    "maps": "map",
    "objects": "object",
    "polygons": "polygon",
    "segments": "segment",
    "are": "is",
    "do": "does",
    "exceed": "exceeds",
    "have": "has",
    "look": "looks",
    "overlap": "overlaps",
}
_SUBJECT = re.compile(rf"(?:(?:{'|'.join(_SINGULAR)}|image|segment|training|that|unreadable)\b ?)+")


def count(number: int, noun: str) -> str:
    """A number with its noun, in the plural if needed.

    >>> count(1, "object"), count(2, "object")
    ('1 object', '2 objects')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def singular(message: str) -> str:
    """Rewrite a message about several items, in the plural, for a single item.

    >>> singular("boxes that look flat; training leaves them out")
    'box that looks flat; training leaves it out'
    """
    if subject := _SUBJECT.match(message):
        words = re.sub(r"\w+", lambda word: _SINGULAR.get(word[0], word[0]), subject[0])
        message = words + message[subject.end() :]
    return re.sub(r"\bthem\b", "it", re.sub(r"\btheir\b", "its", message))


def counted(number: int, message: str) -> str:
    """A number of items, then a message about them, in the singular for one item.

    >>> counted(2, "images have no id"), counted(1, "images have no id")
    ('2 images have no id', '1 image has no id')
    """
    return f"{number} {singular(message) if number == 1 else message}"


def first_of(items: Sequence[object], limit: int = EXAMPLES_SHOWN, total: int | None = None) -> str:
    """List the first few items, and how many more there are; ``total`` if not all are given.

    >>> first_of([1, 2, 3]), first_of([1, 2, 3, 4, 5]), first_of([1, 2], total=9)
    ('1, 2, 3', '1, 2, 3 and 2 more', '1, 2 and 7 more')
    """
    more = (len(items) if total is None else total) - len(items[:limit])
    return ", ".join(map(str, items[:limit])) + (f" and {more} more" if more else "")


def shortened(value: Any) -> str:
    """A short text for a value of any length and nesting depth.

    >>> shortened([[[[0]]], "a"])
    "[[[[...]]], 'a']"
    """
    return _SHORT.repr(value)[:_VALUE_LENGTH]


def box_in_words(box: Sequence[float]) -> str:
    """The numbers of a box with six significant digits each.

    >>> box_in_words([1, 2.5, 1 / 3, 4e9])
    '[1, 2.5, 0.333333, 4e+09]'
    """
    return "[" + ", ".join(f"{number:.6g}" for number in box) + "]"

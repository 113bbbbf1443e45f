"""JSON files that are written entry by entry and replace an old file only when complete."""

import contextlib
import json
from pathlib import Path
from typing import Any

from util.files.checkpoint import atomic_write


class StreamedJson:
    """A JSON file with one long list, which is never in memory as a whole.

    An existing file is replaced when this one is closed.

    Args:
        path: file to write.
        before: entries of the JSON object before the list; None: the file contains only the list.
        name: key of the list.
    """

    def __init__(self, path: Path, before: dict[str, Any] | None = None, name: str = "") -> None:
        self._stack = contextlib.ExitStack()
        self._file = self._stack.enter_context(atomic_write(path, "w"))
        self._is_object = before is not None
        self._separator = "\n"
        if before is not None:
            keys = "".join(f"{json.dumps(k)}: {_dumps(v)},\n" for k, v in before.items())
            self._file.write("{\n" + keys + f"{json.dumps(name)}: ")
        self._file.write("[")

    def add(self, entry: dict[str, Any]) -> None:
        """Write an entry of the list, on one line."""
        self._file.write(self._separator + _dumps(entry))
        self._separator = ",\n"

    def close(self, after: dict[str, Any] | None = None) -> None:
        """Complete the file.

        Args:
            after: entries of the JSON object after the list.
        """
        self._file.write("\n]")
        for key, value in (after or {}).items():
            self._file.write(f",\n{json.dumps(key)}: {_dumps(value)}")
        self._file.write("\n}\n" if self._is_object else "\n")
        self._stack.close()


def _dumps(value: Any) -> str:
    return json.dumps(value, allow_nan=False)

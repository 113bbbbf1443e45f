"""Cache of annotation files on disk: arrays that all processes of a machine share.

An entry is a folder with the arrays as memory-mapped NumPy files, which all processes share, and
the rows as JSON. It is named after the hash of the annotation file, so a changed file gets a new
entry and a copy reuses the old one. Entries are written to a temporary folder and renamed into
place. A cache that cannot be used never stops a run: the arrays are then kept in memory.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import filelock
import numpy as np
import torch

from datasets.annotations.compact.rows import FileBytes
from util.files.temporary import removed_on_sigterm

_VERSION = 2  # increase if an entry of the same file changes
_SMALLEST_CACHED = 4 << 20  # bytes; smaller files are read about as fast as their entry
_DAYS_KEPT = 30  # after the last use
_LONGEST_WAIT = 900  # seconds, for a process that writes the same entry
_ROWS, _REST = "rows.bin", "rest.json"

logger = logging.getLogger(__name__)

Convert = Callable[[IO[bytes]], tuple[Mapping[str, np.ndarray], Any]]


class _MappedArray(np.memmap):
    """A file of an entry. Processes that are not forked map the file too, instead of copying it."""

    _path: Path | None = None  # None: a part of the file, or a result of computations

    @classmethod
    def open(cls, path: Path) -> "_MappedArray":
        """Map a ``.npy`` file into memory."""
        array: _MappedArray = np.load(path, mmap_mode="r").view(cls)
        array._path = path
        return array

    def __array_finalize__(self, source: Any) -> None:
        super().__array_finalize__(source)
        self._path = None

    def __reduce__(self) -> Any:
        return super().__reduce__() if self._path is None else (_MappedArray.open, (self._path,))


class Stored(NamedTuple):
    """Content of an entry.

    Attributes:
        arrays: by name.
        rows: JSON of rows, in one file.
        other_keys: the keys of the annotation file that are not stored in ``rows``.
    """

    arrays: Mapping[str, np.ndarray]
    rows: FileBytes
    other_keys: Any


def cache_folder() -> Path:
    """Cache folder, next to torch.hub's models; set TORCH_HOME to relocate it."""
    return Path(torch.hub.get_dir()).parent / "detr_annotations"


def cached(
    ann_file: str | Path,
    kind: str,
    convert: Convert,
) -> Stored | None:
    """Open the entry of an annotation file; write it first if there is none.

    Only one of several processes writes it, the others wait.

    Args:
        ann_file: the file.
        kind: kind of annotation file; part of the entry's name.
        convert: converts the annotation file: writes its rows as JSON to the given binary file, and
            returns the arrays and the other keys.

    Returns:
        the entry; None if the file is small, or the cache cannot be used.

    Raises:
        IrregularError: raised by ``convert``.
    """
    try:
        version = _version(ann_file)
        if version[0] < _SMALLEST_CACHED:
            return None
        with open(ann_file, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None  # reported when the file is read
    entry = cache_folder() / f"{kind}-{_VERSION}-{digest[:32]}"
    try:
        if (found := _open(entry)) is not None:
            return found
        entry.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{entry}.lock", timeout=_LONGEST_WAIT):
            if (found := _open(entry)) is None:
                _remove_old(entry.parent)
                _write(entry, convert, lambda: _version(ann_file) == version)
                found = _open(entry)
        return found
    except (OSError, NotImplementedError) as error:
        logger.warning(
            "%s is not cached (%s): every process keeps it in memory; to cache it, "
            "set TORCH_HOME to a folder with enough space",
            ann_file,
            error,
        )
        return None


def _version(path: str | Path) -> tuple[int, int]:
    """Size and modification time of a file."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def _open(entry: Path) -> Stored | None:
    """Open an entry; None if there is none, or it is damaged."""
    try:
        content = json.loads((entry / _REST).read_text(encoding="utf-8"))
        names = content["arrays"]
        arrays = {name: _MappedArray.open(entry / f"{name}.npy") for name in names}
        if (entry / _ROWS).stat().st_size != content["size"]:
            return None
        rows = FileBytes(entry / _ROWS)
    except (FileNotFoundError, EOFError, ValueError, KeyError, TypeError):
        return None
    with contextlib.suppress(OSError):  # read-only cache of another user
        os.utime(entry / _REST)
    return Stored(arrays, rows, content["rest"])


def _write(entry: Path, convert: Convert, is_unchanged: Callable[[], bool]) -> None:
    """Write an entry; on failure, remove what was written."""
    temporary = entry.with_name(f"{entry.name}.{os.getpid()}.tmp")
    with removed_on_sigterm(temporary), _removed(temporary):
        temporary.mkdir()
        with open(temporary / _ROWS, "wb") as file:
            arrays, other_keys = convert(file)
            size = file.tell()
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        content = {"size": size, "arrays": list(arrays), "rest": other_keys}
        (temporary / _REST).write_text(json.dumps(content), encoding="utf-8")
        if not is_unchanged():
            raise OSError("it was changed while it was read")
        shutil.rmtree(entry, ignore_errors=True)  # exists only if it is damaged
        temporary.rename(entry)


@contextlib.contextmanager
def _removed(folder: Path) -> Iterator[None]:
    """Context manager that deletes a folder on exit."""
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_old(folder: Path) -> None:
    """Remove entries unused for `_DAYS_KEPT` days, and leftovers of killed processes."""
    oldest = time.time() - _DAYS_KEPT * 24 * 3600
    for path in folder.iterdir():
        used = path / _REST if (path / _REST).exists() else path
        with contextlib.suppress(OSError):
            if used.stat().st_mtime < oldest:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

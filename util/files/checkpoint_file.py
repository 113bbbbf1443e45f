"""Checkpoints: atomic writing, and reading without running code from the file."""

import argparse
import contextlib
import errno
import os
import re
import shutil
import threading
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias

import torch

from util.distributed.processes import is_main_process
from util.errors import UserError
from util.files.download import (
    advice_without_network,
    downloaded,
    fetch_released,
    is_url,
    load_released,
)
from util.files.safetensors_file import SUFFIX, read_safetensors_checkpoint
from util.files.temporary import removed_on_sigterm

StrPath: TypeAlias = str | os.PathLike[str]

# The classes that PyTorch's reader allows are the same for all threads.
_LOADING = threading.Lock()
_FORBIDDEN_NAME = re.compile(r"GLOBAL ([\w.]+)")


# ---- writing -------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_write(path: StrPath, mode: str = "wb", durable: bool = True) -> Iterator[IO[Any]]:
    """Open a file for writing that replaces ``path`` only when it is complete.

    The content is written to a temporary file in the same folder, which is renamed at the end of
    the ``with`` block. If the block raises, or SIGTERM ends the process, ``path`` is unchanged and
    the temporary file is removed. If ``path`` is a symbolic link, its target is replaced.

    Args:
        path: file to create or replace; its folder must exist.
        mode: ``wb``, or ``w`` for UTF-8 text.
        durable: sync to disk, so that the file survives a power loss.

    Raises:
        UserError: if ``path`` is a folder, a device or a pipe.
    """
    check_replaceable(path)
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with removed_on_sigterm(temporary):
            with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            _replace(temporary, target)
        if durable:
            sync_folder(target.parent)
    except OSError as err:
        if err.filename == os.fspath(temporary):
            err.filename = os.fspath(path)  # messages name the file that the user knows
        raise
    finally:
        temporary.unlink(missing_ok=True)


def check_replaceable(path: StrPath, name: str | None = None) -> None:
    """Check that ``path`` is a regular file or does not exist; symbolic links are followed.

    Args:
        path: file that will be replaced.
        name: name in error messages; default: the path.

    Raises:
        UserError: if it is a folder, a device or a pipe.
    """
    name = name or os.fspath(path)
    if os.path.isdir(path):
        raise UserError(f"{name}: is a folder; give the name of a file")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{name}: is a device or a pipe; give the name of a file")


def _replace(temporary: Path, target: Path) -> None:
    """Rename ``temporary`` to ``target``, or copy it if that is a mount point."""
    try:
        os.replace(temporary, target)
    except OSError as err:
        if err.errno != errno.EBUSY:
            raise
        # A file that is mounted, as in a container, cannot be replaced by a rename.
        with temporary.open("rb") as source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
            file.flush()
            os.fsync(file.fileno())


def save_checkpoint(obj: Any, f: StrPath | IO[bytes]) -> None:
    """`torch.save` with atomic replacement of the file.

    Args:
        obj: tensors, numbers, strings, lists and dicts, as ``torch.load(weights_only=True)`` reads.
        f: path, or a binary file object (written directly).

    Raises:
        UserError: if the file cannot be written (no space, no such folder, no permission).
    """
    if not isinstance(f, str | os.PathLike):
        torch.save(obj, f)
        return
    try:
        with atomic_write(f) as file:
            torch.save(obj, file)
    except (OSError, RuntimeError) as raised:
        err = _cause(raised)
        if not isinstance(err, OSError):
            raise err from None
        raise UserError(
            f"{os.fspath(f)} cannot be written ({err.strerror}), an existing file is unchanged: "
            "free disk space or choose another folder"
        ) from err


def _cause(error: BaseException) -> BaseException:
    """The interrupt or disk error behind an error of PyTorch's writer."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError | KeyboardInterrupt):
        found = found.__context__
    return error if found is None else found


def save_on_master(*args: Any, **kwargs: Any) -> None:
    """`save_checkpoint` on rank 0; other ranks do nothing."""
    if is_main_process():
        save_checkpoint(*args, **kwargs)


def sync_folder(folder: Path) -> None:
    """Sync a folder to disk, so that a rename in it survives a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- reading -------------------------------------------------------------------------------------


def load_checkpoint(
    path_or_url: StrPath, mmap: bool = False, released: bool = False
) -> dict[str, Any]:
    """Read a checkpoint file to the CPU, without running code from it.

    Args:
        path_or_url: path of a PyTorch or safetensors file, or an ``https://``, ``http://`` or
            ``file://`` URL, see `util.files.download.downloaded`.
        mmap: read tensors from disk on first use, as for `torch.load`; paths only.
        released: whether this is the URL of a released file, see
            `util.files.download.load_released`.

    Returns:
        the saved dict: tensors, plain values, and `argparse.Namespace` in files of the original.

    Raises:
        UserError: if the file does not exist, cannot be downloaded, is damaged or not a checkpoint,
            or would run code.
    """
    source = os.fspath(path_or_url)
    from_url = is_url(source)
    if source.endswith(SUFFIX):
        if from_url:
            raise UserError(
                f"{source}: safetensors files cannot be read from a URL: download the file and "
                "give its path"
            )
        return read_safetensors_checkpoint(source)
    place: contextlib.AbstractContextManager[StrPath]
    place = downloaded(source) if from_url else contextlib.nullcontext(source)
    try:
        if released:
            fetch_released(source)  # other threads can read files meanwhile
            with _reading():
                content = load_released(source)
        else:
            with place as path:
                _refuse_compression(path, source)
                with _reading():
                    content = torch.load(
                        path, map_location="cpu", weights_only=True, mmap=mmap and not from_url
                    )
    except UserError:
        raise
    except Exception as err:  # on other files the unpickler can raise any exception
        raise UserError(f"{source}: {_reading_problem(err, source)}") from err
    if not isinstance(content, dict):
        raise UserError(
            f"{source}: contains a {type(content).__name__}, not the dict of a checkpoint"
        )
    return content


def _refuse_compression(path: StrPath, name: str) -> None:
    """Check that reading a zip file takes no more memory than the file; PyTorch compresses nothing.

    Args:
        path: file to check; files of other formats pass.
        name: name of the file in error messages.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as file:
        entries = file.infolist()
    is_compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if is_compressed or sum(entry.file_size for entry in entries) > os.path.getsize(path):
        raise UserError(
            f"{name}: has compressed entries, which is refused: unpack and save it again"
        )


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Allow `argparse.Namespace`, as in files of the original, for this thread alone."""
    with (
        _LOADING,
        torch.serialization.safe_globals([argparse.Namespace]),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        yield


def _reading_problem(err: Exception, source: str) -> str:
    """Problem and fix for an exception raised while reading a file."""
    text = str(err)
    forbidden = _FORBIDDEN_NAME.search(text)
    if forbidden:
        return (
            f"reading it would run code from the file ({forbidden[1]}), which is refused: "
            "save it again with tensors, numbers and text only"
        )
    if isinstance(err, OSError) and is_url(source):
        return f"cannot be downloaded ({err}): {advice_without_network(source)}"
    if isinstance(err, OSError):
        return f"cannot be read ({err.strerror}): give the path of a checkpoint file"
    if "invalid hash value" in text:
        return f"does not match the hash in its name ({text}): try again"
    if isinstance(err, EOFError) or "PytorchStreamReader" in text or "unexpected EOF" in text:
        return "is damaged or truncated: copy it again, or use an earlier checkpoint"
    return "is not a checkpoint that PyTorch can read"

"""Checkpoints: written so that no crash leaves half a file, read without running their code."""

import argparse
import contextlib
import os
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias

import torch

from util.distributed.processes import is_main_process
from util.errors import UserError
from util.files.download import advice_without_network, is_url, load_from_url
from util.files.safetensors_file import SUFFIX, read_safetensors_checkpoint

StrPath: TypeAlias = str | os.PathLike[str]

_FORBIDDEN_NAME = re.compile(r"GLOBAL ([\w.]+)")


# ---- writing -------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_write(path: StrPath, mode: str = "wb", durable: bool = True) -> Iterator[IO[Any]]:
    """Open a file that takes the place of ``path`` only once it is complete and on the disk.

    It is written under another name in the same folder and renamed when the block ends. Where the
    block raises, it is removed and ``path`` stays as it was. A symbolic link stays one.

    Args:
        path: file to make or to replace; its folder must exist.
        mode: ``wb``, or ``w`` for text in UTF-8.
        durable: wait until the disk has it; without, a power failure may take the file again.
    """
    target = Path(os.path.realpath(path))
    beside = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with open(beside, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, target)
        if durable:
            sync_folder(target.parent)
    finally:
        beside.unlink(missing_ok=True)


def save_checkpoint(obj: Any, f: StrPath | IO[bytes]) -> None:
    """`torch.save` that replaces a file as a whole or not at all.

    Args:
        obj: tensors, numbers, text, lists and dicts, which ``torch.load(weights_only=True)`` reads.
        f: path, or a file open for writing bytes (written directly).

    Raises:
        UserError: the file cannot be written (no space, no such folder, no permission).
    """
    if not isinstance(f, str | os.PathLike):
        torch.save(obj, f)
        return
    try:
        with atomic_write(f) as file:
            torch.save(obj, file)
    except (OSError, RuntimeError) as complaint:
        err = _what_stopped(complaint)
        if not isinstance(err, OSError):
            raise err from None
        raise UserError(
            f"{os.fspath(f)} cannot be written ({err.strerror}), a file that was there is whole: "
            "make room or choose another folder"
        ) from err


def _what_stopped(error: BaseException) -> BaseException:
    """The interrupt or disk error that PyTorch's writer hides behind a complaint of its own."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError | KeyboardInterrupt):
        found = found.__context__
    return error if found is None else found


def save_on_master(*args: Any, **kwargs: Any) -> None:
    """`save_checkpoint` in the main process, nothing in the others."""
    if is_main_process():
        save_checkpoint(*args, **kwargs)


def sync_folder(folder: Path) -> None:
    """Bring a rename to the disk; syncing the file alone does not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- reading -------------------------------------------------------------------------------------


def load_checkpoint(
    path_or_url: StrPath, map_location: Any = "cpu", mmap: bool = False
) -> dict[str, Any]:
    """Read a checkpoint file without running code from it.

    Args:
        path_or_url: a path, also of a safetensors file, or an ``https://``, ``http://`` or
            ``file://`` address, see `util.files.download.load_from_url`.
        map_location: where tensors go, as for `torch.load`.
        mmap: read a tensor from the disk when it is used, as for `torch.load`; paths only.

    Returns:
        What was saved: tensors, plain values, and `argparse.Namespace` in files of the original.

    Raises:
        UserError: no such file, failed download, damaged or foreign file, one that would run code.
    """
    source = os.fspath(path_or_url)
    from_url = is_url(source)
    if source.endswith(SUFFIX):
        if from_url:
            raise UserError(
                f"{source}: safetensors files are not read from addresses: download it and give "
                "its path"
            )
        return read_safetensors_checkpoint(source)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            if from_url:
                content = load_from_url(source, map_location)
            else:
                content = torch.load(
                    source, map_location=map_location, weights_only=True, mmap=mmap
                )
    except UserError:
        raise
    except Exception as err:  # a foreign file can make the unpickler raise anything
        raise UserError(f"{source}: {_why_unreadable(err, source)}") from err
    if not isinstance(content, dict):
        raise UserError(f"{source}: holds a {type(content).__name__}, not the dict of a checkpoint")
    return content


def _why_unreadable(err: Exception, source: str) -> str:
    """What is wrong with the file, and what to do, from what reading it raised."""
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
        return f"is not the file that its name promises ({text}): try again"
    if isinstance(err, EOFError) or "PytorchStreamReader" in text or "unexpected EOF" in text:
        return "is damaged or cut short: copy it again, or take an earlier one"
    return "is not a checkpoint that PyTorch can read"

"""Checkpoints from URLs, verified by the hash in the file name."""

import contextlib
import hashlib
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from util.distributed.processes import is_main_process
from util.errors import UserError

_URL = re.compile(r"^(https?|file)://")
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")  # as in detr-r50-e632da11.pth


def is_url(source: str) -> bool:
    """Whether this is an ``https://``, ``http://`` or ``file://`` URL."""
    return _URL.match(source) is not None


@contextlib.contextmanager
def downloaded(url: str) -> Iterator[Path]:
    """The path of a downloaded file, for a ``with`` block.

    A file with a hash in its name is cached in the folder ``checkpoints`` of `torch.hub`. Other
    files are downloaded each time, and removed at the end of the block.

    Args:
        url: URL, see `is_url`.

    Raises:
        UserError: if the cached file does not match the hash in its name.
        OSError: if the download fails.
        RuntimeError: if the downloaded file does not match the hash in its name.
    """
    path = _cache_path(url)
    expected_hash = _HASH_IN_NAME.search(path.name)
    if expected_hash:
        if path.exists():  # PyTorch verifies only downloads
            _check_cached(path, expected_hash[1])
        else:
            _download(url, path, expected_hash[1])
        yield path
        return
    temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")  # threads may download equal names
    try:
        _download(url, temporary, None)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def fetch_released(url: str) -> None:
    """Download a file for `load_released`, if it is not there.

    Does nothing if a program has replaced the loader of `torch.hub`.

    Raises:
        OSError, RuntimeError: see `downloaded`.
    """
    path = _cache_path(url)
    expected_hash = _HASH_IN_NAME.search(path.name)
    loader = torch.hub.load_state_dict_from_url
    # Not its __module__: functools.wraps copies that.
    is_replaced = getattr(loader, "__globals__", None) is not vars(torch.hub)
    if expected_hash and not is_replaced and not path.exists():
        _download(url, path, expected_hash[1])


def load_released(url: str) -> Any:
    """Load a released file, whose name ends in its hash, with `torch.hub.load_state_dict_from_url`.

    Programs without network access can replace that function to provide the files.

    Raises:
        UserError, OSError, RuntimeError: see `downloaded`.
    """
    path = _cache_path(url)
    if path.exists() and (expected_hash := _HASH_IN_NAME.search(path.name)):
        _check_cached(path, expected_hash[1])
    return torch.hub.load_state_dict_from_url(
        url,
        map_location="cpu",
        progress=is_main_process(),
        check_hash=True,
        file_name=path.name,
        weights_only=True,
    )


def advice_without_network(url: str) -> str:
    """Advice for a machine without network access; the end of an error message."""
    path = _cache_path(url)
    fix = f"put it at {path}" if _HASH_IN_NAME.search(path.name) else "give its path"
    return f"download it on another machine and {fix}"


def _cache_path(url: str) -> Path:
    """Path of the cached file of `torch.hub`."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name


def _download(url: str, path: Path, expected_hash: str | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f'Downloading: "{url}"')
    torch.hub.download_url_to_file(url, str(path), expected_hash, progress=is_main_process())


def _check_cached(path: Path, expected: str) -> None:
    """Raise a UserError if the hash of a cached file is another one."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise UserError(
            f"{path}: does not match the hash in its name (its hash is {found[:8]}): rename it to "
            "download it again"
        )

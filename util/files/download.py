"""Checkpoints from addresses, verified by the hash in their name."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from util.distributed.processes import is_main_process
from util.errors import UserError

_URL = re.compile(r"^(https?|file)://")
_PROMISED = re.compile(r"-([0-9a-f]{8,64})\.")  # as in detr-r50-e632da11.pth


def is_url(source: str) -> bool:
    """Whether this is an ``https://``, ``http://`` or ``file://`` address."""
    return _URL.match(source) is not None


def load_from_url(url: str, map_location: Any) -> Any:
    """Read a file from an address with `torch.hub`, without running code from it.

    It is kept for the next time, in the folder ``checkpoints`` of `torch.hub`, where its name has a
    hash by which it is known. Of another name there may be another file each time.

    Args:
        url: an address, see `is_url`.
        map_location: where tensors go, as for `torch.load`.

    Raises:
        UserError: what an earlier download has left has not the hash of its name.
        OSError: it cannot be downloaded.
        RuntimeError: what is downloaded has not the hash of its name.
    """
    place = _place(url)
    promise = _PROMISED.search(place.name)
    if promise:
        _check_kept(place, promise[1])
        return _load(url, map_location, place.name)
    passing = f"{os.getpid()}-{place.name}"
    try:
        return _load(url, map_location, passing)
    finally:
        place.with_name(passing).unlink(missing_ok=True)


def advice_without_network(url: str) -> str:
    """What to do where the file of an address cannot be downloaded."""
    place = _place(url)
    kept = _PROMISED.search(place.name)
    return "fetch it on another machine and " + (f"put it at {place}" if kept else "give its path")


def _place(url: str) -> Path:
    """Where `torch.hub` puts the file of an address."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name


def _load(url: str, map_location: Any, file_name: str) -> Any:
    return torch.hub.load_state_dict_from_url(
        url,
        map_location=map_location,
        progress=is_main_process(),
        check_hash=True,
        file_name=file_name,
        weights_only=True,
    )


def _check_kept(path: Path, expected: str) -> None:
    """PyTorch compares hashes of what it downloads, not of what it finds."""
    if not path.exists():
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise UserError(
            f"{path}: is damaged or another file, its hash is {found[:8]}: rename it, so that "
            "it is downloaded again"
        )

"""Checks that all ranks of a run have the same flags, data and checkpoint."""

import argparse
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from util.distributed.processes import all_gather
from util.errors import UserError

_FIX = "give every rank the same flags, and every machine the same files"


def require_same(values: Mapping[str, Any], skip_checks: bool = False) -> None:
    """Raise if values differ between ranks. Collective: call on every rank.

    Args:
        values: printable values by name; the message begins with the name.
        skip_checks: value of ``--skip_checks``; if it is set on all ranks, print a warning instead.

    Raises:
        UserError: on every rank, if a value differs from rank 0.
    """
    own = {name: str(value) for name, value in values.items()}
    gathered = all_gather((own, skip_checks))
    only_warn = all(skips for _, skips in gathered)
    for rank, (theirs, _) in enumerate(gathered):
        for name, value in gathered[0][0].items():
            if theirs.get(name) != value:
                difference = f"{name}: {value} on rank 0, {theirs.get(name)} on rank {rank}"
                if not only_warn:
                    raise UserError(f"{difference}; {_FIX}")
                print(f"Warning (--skip_checks): {difference}")


def fingerprint(content: Any) -> str:
    """Short hash of nested values, such as a checkpoint.

    Args:
        content: nested dicts, lists, tuples and namespaces of dense CPU tensors and plain values.

    Returns:
        eight hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=4)
    _add(digest, content)
    return digest.hexdigest()


def _add(digest: Any, content: Any) -> None:
    if isinstance(content, argparse.Namespace):
        content = vars(content)
    if isinstance(content, Tensor):
        digest.update(f"{content.dtype}{tuple(content.shape)}".encode())
        digest.update(content.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(content, Mapping):
        for name, value in content.items():
            digest.update(repr(name).encode())
            _add(digest, value)
    elif isinstance(content, list | tuple):
        digest.update(f"{type(content).__name__}{len(content)}".encode())
        for value in content:
            _add(digest, value)
    else:
        digest.update(repr(content).encode())

"""Checks that all ranks of a run have the same flags, data and checkpoint."""

import argparse
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from util.distributed.processes import all_gather
from util.errors import UserError


def require_same(facts: Mapping[str, Any], way_out: str, skip_checks: bool = False) -> None:
    """Refuse facts that differ between ranks. Collective: call on every rank.

    Args:
        facts: printable values by name; names start the message.
        way_out: how to remove a difference; ends the message.
        skip_checks: value of ``--skip_checks``; if it is set on all ranks, print a warning.

    Raises:
        UserError: on every rank; names the first difference from rank 0.
    """
    own = {name: str(value) for name, value in facts.items()}
    gathered = all_gather((own, skip_checks))
    only_warn = all(skips for _, skips in gathered)
    for rank, (theirs, _) in enumerate(gathered):
        for name, value in gathered[0][0].items():
            if theirs.get(name) != value:
                difference = f"{name}: {value} in rank 0, {theirs.get(name)} in rank {rank}"
                if not only_warn:
                    raise UserError(f"{difference}; {way_out}")
                print(f"Warning (--skip_checks): {difference}")


def fingerprint(content: Any) -> str:
    """Short hash of a checkpoint or of other nested values.

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

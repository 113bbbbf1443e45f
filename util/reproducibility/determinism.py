"""Deterministic algorithms (``--deterministic``)."""

import contextlib
import os
import re
from collections.abc import Iterator

import torch

from util.errors import UserError

_MISSING = re.compile(r"(\w+) does not have a deterministic implementation")


def make_deterministic() -> None:
    """Make PyTorch use deterministic algorithms, or raise an error where there is none.

    Call this before the first GPU operation: cuBLAS reads its setting once.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


@contextlib.contextmanager
def determinism_restored() -> Iterator[None]:
    """Undo `make_deterministic` at the end, for the next run in a notebook.

    cuBLAS keeps its setting.
    """
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        if torch.are_deterministic_algorithms_enabled() and not is_deterministic:
            torch.use_deterministic_algorithms(False, warn_only=only_warns)
        torch.backends.cudnn.benchmark = benchmark


@contextlib.contextmanager
def explained_refusals() -> Iterator[None]:
    """Convert PyTorch's error about a missing deterministic algorithm to a UserError.

    Raises:
        UserError: if an operation has no deterministic algorithm; the message names it.
    """
    try:
        yield
    except RuntimeError as err:
        missing = _MISSING.search(str(err))
        if missing is None:
            raise
        raise UserError(
            f"--deterministic: {missing[1]} has no deterministic implementation here; "
            "omit --deterministic, or use --device cpu"
        ) from err

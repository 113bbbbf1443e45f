"""The same bits for the same work, on a GPU too: ``--deterministic``."""

import contextlib
import os
import re
from collections.abc import Iterator

import torch

from util.errors import UserError

_REFUSED = re.compile(r"(\w+) does not have a deterministic implementation")


def make_deterministic() -> None:
    """Let PyTorch use kernels that always add in the same order, and refuse work without such.

    Call it before the first work on a GPU: cuBLAS looks at its setting once.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


@contextlib.contextmanager
def explained_refusals() -> Iterator[None]:
    """Turn PyTorch's refusal of a kernel into a mistake of the user.

    Raises:
        UserError: names the operation.
    """
    try:
        yield
    except RuntimeError as err:
        refused = _REFUSED.search(str(err))
        if refused is None:
            raise
        raise UserError(
            f"--deterministic: {refused[1]} has no kernel that always gives the same bits here; "
            "train without the flag, or with --device cpu"
        ) from err

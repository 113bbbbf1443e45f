"""Convert connection errors of `torch.distributed` to one line with rank and collective."""

import contextlib
import re
import traceback
from collections.abc import Iterator

import torch.distributed as dist

from util.distributed.launch import Launch
from util.errors import ConnectionLostError, UserError

_TIMED_OUT = re.compile(r"timed?[ -]?out", re.IGNORECASE)
_DURATION = re.compile(r"(\d+) ?(ms|seconds)")
_LOST = re.compile(r"Connection \w+ by peer|Connection refused|Broken pipe|Socket closed")
_IN_USE = re.compile(r"EADDRINUSE|[Aa]ddress already in use")
# Matches a source line of Gloo, a process group of Gloo or NCCL, and an NCCL error code, but not a
# path such as /mnt/gloo/x.jpg or libnccl.so.
_TRANSPORT = re.compile(
    r"\[[^]\n]*\bgloo/\S+:\d+\]"
    r"|(?<![\w/.-])(?:(?:ProcessGroup)?(?:Gloo|NCCL)|nccl[A-Z]\w+)(?![\w/-]|\.\w)"
)


@contextlib.contextmanager
def convert_connection_errors(
    launch: Launch | None = None, action: str = "communication"
) -> Iterator[None]:
    """Convert `torch.distributed` errors caused by a dead or hanging process to one line.

    All other errors are raised unchanged, and so is every error if there is neither a process group
    nor ``launch``.

    Args:
        launch: ranks of this process; needed while there may be no process group.
        action: what the ``with`` block does; used in the message if the traceback shows no
            collective.

    Raises:
        ConnectionLostError: if another process died or hangs.
        UserError: if the rendezvous port is in use.
    """
    try:
        yield
    except ConnectionLostError:
        raise
    except RuntimeError as err:
        if isinstance(err, dist.DistError) and _IN_USE.search(str(err)):
            raise UserError(
                f"the rendezvous port is in use ({_IN_USE.findall(str(err))[0]}): "
                "set MASTER_PORT to another port, or use torchrun --rdzv_endpoint localhost:0"
            ) from err
        reason = _reason(err)
        if reason is None or not (launch is not None or _is_connected()):
            raise
        rank, world_size = _rank_and_world_size(launch)
        raise ConnectionLostError(
            f"rank {rank} of {world_size}: {_collective_in(err) or action} {reason}: another "
            "process exited, hangs or never connected: see its output; continue from the last "
            "checkpoint with --auto_resume"
        ) from err


def _is_connected() -> bool:
    return dist.is_available() and dist.is_initialized()


def _rank_and_world_size(launch: Launch | None) -> tuple[int, int]:
    if launch is not None:
        return launch.rank, launch.world_size
    return dist.get_rank(), dist.get_world_size()


def _reason(err: RuntimeError) -> str | None:
    """Describe a connection error; None for any other error."""
    text = str(err)
    is_transport_error = isinstance(err, dist.DistError) or _TRANSPORT.search(text)
    if not is_transport_error:
        return None
    if _TIMED_OUT.search(text):
        return f"timed out{_duration(text)}"
    if lost := _LOST.search(text):
        return f"lost its connection ({lost[0]})"
    return f"failed ({text.strip().splitlines()[0]})" if text.strip() else None


def _duration(text: str) -> str:
    found = _DURATION.search(text)
    if found is None:
        return ""
    seconds = int(found[1]) / (1000 if found[2] == "ms" else 1)
    return f" after {seconds:g} s"


def _collective_in(err: RuntimeError) -> str | None:
    """Name of the collective in the traceback of an error, or None."""
    for frame, _ in traceback.walk_tb(err.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if module == "torch.distributed.distributed_c10d":
            return frame.f_code.co_name
        if module.startswith("torch.autograd"):
            return "all_reduce of the gradients"
        if module.startswith("torch.nn.parallel"):
            return "broadcast of DistributedDataParallel"
    return None

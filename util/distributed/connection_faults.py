"""Faults between processes that train together, told in one line that names rank and collective."""

import contextlib
import re
import traceback
from collections.abc import Iterator

import torch.distributed as dist

from util.distributed.launch import Launch
from util.errors import ConnectionLostError, UserError

_TIMED_OUT = re.compile(r"timed?[ -]?out", re.IGNORECASE)
_WAITED = re.compile(r"(\d+) ?(ms|seconds)")
_LOST = re.compile(r"Connection \w+ by peer|Connection refused|Broken pipe|Socket closed")
_TAKEN = re.compile(r"EADDRINUSE|[Aa]ddress already in use")
# A line of Gloo's source, a library, its process group or an error code of NCCL. Names that are
# part of a path, such as /mnt/gloo/x.jpg or libnccl.so, do not count.
_TRANSPORT = re.compile(
    r"\[[^]\n]*\bgloo/\S+:\d+\]"
    r"|(?<![\w/.-])(?:(?:ProcessGroup)?(?:Gloo|NCCL)|nccl[A-Z]\w+)(?![\w/-]|\.\w)"
)


@contextlib.contextmanager
def explained_connection_errors(
    launch: Launch | None = None, action: str = "communication"
) -> Iterator[None]:
    """Turn what `torch.distributed` raises when a process is gone or stuck into one line.

    Of a process that neither connects nor is connected every error passes.

    Args:
        launch: of this process, before it is connected or where that may be over.
        action: what the body does; told where no collective is known.

    Raises:
        ConnectionLostError: in place of such an error. Others pass.
        UserError: the port to meet at is taken.
    """
    try:
        yield
    except ConnectionLostError:
        raise
    except RuntimeError as err:
        if isinstance(err, dist.DistError) and _TAKEN.search(str(err)):
            raise UserError(
                f"the port for the processes to meet at is taken ({_TAKEN.findall(str(err))[0]}): "
                "set MASTER_PORT to another, or give torchrun --rdzv_endpoint localhost:0"
            ) from err
        reason = _reason(err)
        if reason is None or not (launch is not None or _is_connected()):
            raise
        rank, world_size = _rank_and_world_size(launch)
        raise ConnectionLostError(
            f"rank {rank} of {world_size}: {_collective_in(err) or action} {reason}: another "
            "process is gone, stuck or never came, look at its output; what was saved can be "
            "continued with --auto_resume"
        ) from err


def _is_connected() -> bool:
    return dist.is_available() and dist.is_initialized()


def _rank_and_world_size(launch: Launch | None) -> tuple[int, int]:
    if launch is not None:
        return launch.rank, launch.world_size
    return dist.get_rank(), dist.get_world_size()


def _reason(err: RuntimeError) -> str | None:
    """What went wrong between the processes; None where it was something else."""
    text = str(err)
    of_transport = isinstance(err, dist.DistError) or _TRANSPORT.search(text)
    if of_transport and _TIMED_OUT.search(text):
        return f"timed out{_waited(text)}"
    if of_transport and (lost := _LOST.search(text)):
        return f"lost its connection ({lost[0]})"
    return f"failed ({text.strip().splitlines()[0]})" if of_transport and text.strip() else None


def _waited(text: str) -> str:
    found = _WAITED.search(text)
    if found is None:
        return ""
    seconds = int(found[1]) / (1000 if found[2] == "ms" else 1)
    return f" after {seconds:g} s"


def _collective_in(err: RuntimeError) -> str | None:
    """The call of `torch.distributed` that an error came from, as far as its traceback tells."""
    for frame, _ in traceback.walk_tb(err.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if module == "torch.distributed.distributed_c10d":
            return frame.f_code.co_name
        if module.startswith("torch.autograd"):
            return "all_reduce of the gradients"
        if module.startswith("torch.nn.parallel"):
            return "broadcast of DistributedDataParallel"
    return None

"""Processes that train together: who am I, connecting and ending, small collectives.

Every function also works, and costs nothing, in a program of a single process.
"""

import builtins
import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from util.distributed.connection_faults import explained_connection_errors
from util.distributed.launch import Launch, detect_launch, rendezvous_address
from util.distributed.process_output import only_main_prints
from util.distributed.rendezvous import attempt_store
from util.errors import UserError
from util.options import option

T = TypeVar("T")


def is_dist_avail_and_initialized() -> bool:
    """Whether this program runs as several connected processes."""
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes, 1 without distribution."""
    return dist.get_world_size() if is_dist_avail_and_initialized() else 1


def get_rank() -> int:
    """Number of this process, from 0; 0 without distribution."""
    return dist.get_rank() if is_dist_avail_and_initialized() else 0


def is_main_process() -> bool:
    """Whether this is the process that prints and writes files."""
    return get_rank() == 0


def setup_for_distributed(is_master: bool) -> None:
    """Silence ``print`` in all but the main process; ``print(..., force=True)`` always prints.

    Args:
        is_master: whether the calling process is the main one.
    """
    plain_print: Callable[..., None] = getattr(builtins.print, "plain_print", builtins.print)

    def print_on_master(*args: Any, force: bool = False, **kwargs: Any) -> None:
        if is_master or force:
            plain_print(*args, **kwargs)

    print_on_master.plain_print = plain_print  # type: ignore[attr-defined]  # against wrapping twice
    builtins.print = print_on_master


def init_distributed_mode(args: Any) -> None:
    """Connect to the other processes, if the environment says that there are any, for good.

    As in the original, ``print`` is silenced outside the main process. What ends is better written
    with `connected`, which leaves ``print`` alone and disconnects.

    Args:
        args: see `connected`.

    Raises:
        UserError: the environment is half set or contradicts itself, or a GPU is missing.
        ConnectionLostError: the others have not come in time.
    """
    launch = _connect(args)
    if launch is not None:
        setup_for_distributed(launch.rank == 0)


@contextlib.contextmanager
def connected(args: Any) -> Iterator[None]:
    """Be connected to the other processes, if the environment says that there are any.

    Understands torchrun (RANK, WORLD_SIZE, LOCAL_RANK) and Slurm (SLURM_PROCID, SLURM_NTASKS,
    SLURM_LOCALID), see `util.distributed.launch`. GPUs talk over NCCL, each process owning
    the GPU of its local rank; CPUs talk over gloo. The main process alone writes to stdout. However
    the body ends, stdout is as before and the process group is destroyed, but for one of NCCL after
    an error: it would wait for the others, who wait for this process. `exit_status_of`
    and `exit_process` end such a process.

    Args:
        args: namespace of `main.get_args_parser`; ``device``, ``dist_url`` and ``dist_timeout``
            (seconds for a collective) are read, ``distributed`` is set, and with it ``rank``,
            ``world_size``, ``gpu`` and ``dist_backend`` where there are several processes.

    Raises:
        UserError: the environment is half set or contradicts itself, or a GPU is missing.
        ConnectionLostError: a collective of the body has failed, those of
            DistributedDataParallel included.
    """
    was_connected = is_dist_avail_and_initialized()
    failed = True
    try:
        launch = _connect(args)
        with only_main_prints(launch.rank if launch else 0), explained_connection_errors(launch):
            yield
        failed = False
    finally:
        if is_dist_avail_and_initialized() and not was_connected:
            _disconnect(failed)


def _disconnect(failed: bool) -> None:
    if not (failed and dist.get_backend() == "nccl"):
        dist.destroy_process_group()


def exit_process(status: int) -> NoReturn:
    """End this process, at once where it has failed and is still connected, see `connected`."""
    if status and is_dist_avail_and_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    # Data workers outlive the one SIGTERM by which Python ends its children at exit, and it would
    # wait for them forever. PyTorch's handler would report killed workers as a fault.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        child.kill()
    sys.exit(status)


def exit_status_of(run: Callable[[], int]) -> int:
    """The exit status that ``run`` returns, for `exit_process`.

    An unexpected exception in a process that stays connected is printed with its traceback and
    gives status 1: the interpreter's own way to end would wait for the other ranks.
    """
    try:
        return run()
    except Exception as err:
        if not is_dist_avail_and_initialized():
            raise
        sys.excepthook(type(err), err, err.__traceback__)  # with the rank before each line
        return 1


def use_gpu(device: str) -> None:
    """Make a GPU that is given with its number, as ``cuda:1``, the current device.

    Random states, memory figures and pinned memory belong to the current device.
    """
    chosen = torch.device(device)
    if chosen.type == "cuda" and chosen.index is not None:
        torch.cuda.set_device(chosen.index)


def all_gather(data: T) -> list[T]:
    """Collect one picklable object from every process.

    Args:
        data: the object of this process; sizes may differ between processes.

    Returns:
        The objects of all processes in order of rank, the same list everywhere.
    """
    if get_world_size() == 1:
        return [data]
    gathered: list[Any] = [None] * get_world_size()
    with explained_connection_errors():
        dist.all_gather_object(gathered, data)
    return gathered


def reduce_dict(input_dict: dict[str, Tensor], average: bool = True) -> dict[str, Tensor]:
    """Add up or average values over all processes, with one collective for all of them.

    NaN of one process makes the result NaN, so that no process trains on past a lost one.

    Args:
        input_dict: tensors of one shape and type; every process has the same keys.
        average: divide the sums by the number of processes.

    Returns:
        The same keys in the same order; the very ``input_dict`` in a single process.
    """
    world_size = get_world_size()
    if world_size == 1 or not input_dict:
        return input_dict
    names = sorted(input_dict)  # the order of insertion may differ between processes
    with torch.no_grad(), explained_connection_errors():
        values = torch.stack([input_dict[name] for name in names])
        dist.all_reduce(values)
        if average:
            values = values / world_size
    reduced = dict(zip(names, values, strict=True))
    return {name: reduced[name] for name in input_dict}


def barrier() -> None:
    """Wait until every process is here."""
    if is_dist_avail_and_initialized():
        with explained_connection_errors():
            dist.barrier()


def _connect(args: Any) -> Launch | None:
    """Find this process's launch, write it into ``args``, and connect; None in a single process."""
    launch = detect_launch(os.environ)
    args.distributed = launch is not None
    if launch is None:
        print("Not using distributed mode")
        return None
    address = rendezvous_address(args.dist_url, launch, os.environ)
    gpu = _assign_gpu(launch, args.device) if torch.device(args.device).type == "cuda" else None
    args.rank, args.world_size = launch.rank, launch.world_size
    args.gpu = launch.local_rank if gpu is None else gpu.index
    args.dist_backend = "gloo" if gpu is None else "nccl"
    print(f"| distributed init (rank {launch.rank}): {address}", flush=True)
    timeout = timedelta(seconds=option(args, "dist_timeout"))
    with explained_connection_errors(launch, "the start"):
        of_env = address.startswith("env://")
        store = attempt_store(os.environ, launch, timeout) if of_env else None
        dist.init_process_group(
            args.dist_backend,
            init_method=None if store else address,
            store=store,
            world_size=launch.world_size,
            rank=launch.rank,
            timeout=timeout,
            device_id=gpu,
        )
        dist.barrier()
    return launch


def _assign_gpu(launch: Launch, device: str) -> torch.device:
    """Make the GPU of this process its current one: that of its local rank.

    Args:
        launch: of this process.
        device: of the flags; with a number it must be that GPU.

    Slurm may show each task its own GPU alone (``--gpus-per-task``): then that is the one.

    Raises:
        UserError: there is no such GPU, or ``device`` is another.
    """
    visible = torch.cuda.device_count()
    own_alone = launch.launcher == "slurm" and visible == 1
    index = 0 if own_alone else launch.local_rank
    if index >= visible:
        raise UserError(
            f"local rank {launch.local_rank} has no GPU, {visible} are visible: "
            "start one process a GPU, or give --device cpu"
        )
    if torch.device(device).index not in (None, index):
        raise UserError(
            f"--device {device}: local rank {launch.local_rank} uses cuda:{index}; in a distributed "
            "run each process uses the GPU of its local rank, give --device cuda"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)

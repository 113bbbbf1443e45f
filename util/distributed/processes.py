"""Process group of a distributed run: rank and world size, start and end, small collectives.

Without a process group every function works as for a single process (rank 0, world size 1).
"""

import builtins
import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from util.distributed.connection_faults import convert_connection_errors
from util.distributed.launch import Launch, detect_launch, rendezvous_address
from util.distributed.process_output import only_main_prints
from util.distributed.rendezvous import attempt_store
from util.errors import UserError
from util.options import option, prints_short

T = TypeVar("T")


def is_dist_avail_and_initialized() -> bool:
    """Whether the process group is initialized."""
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if is_dist_avail_and_initialized() else 1


def get_rank() -> int:
    """Rank of this process; 0 without a process group."""
    return dist.get_rank() if is_dist_avail_and_initialized() else 0


def is_main_process() -> bool:
    """Whether this is rank 0, the process that prints and writes files."""
    return get_rank() == 0


def setup_for_distributed(is_master: bool) -> None:
    """Silence ``print`` on all ranks but 0; ``print(..., force=True)`` always prints.

    Args:
        is_master: whether this process is rank 0.
    """
    plain_print: Callable[..., None] = getattr(builtins.print, "plain_print", builtins.print)

    def print_on_master(*args: Any, force: bool = False, **kwargs: Any) -> None:
        """Replacement of the built-in print; ``force``: also on other ranks."""
        if is_master or force:
            plain_print(*args, **kwargs)

    print_on_master.plain_print = plain_print  # type: ignore[attr-defined]  # against wrapping twice
    builtins.print = print_on_master


def init_distributed_mode(args: Any) -> None:
    """Initialize the process group, if the environment describes one, as in the original.

    ``print`` is silenced on all ranks but 0. New code uses `connected`, which also destroys the
    process group and does not change ``print``.

    Args:
        args: see `connected`.

    Raises:
        UserError: if environment variables are missing or contradict each other, or there is no
            GPU for this process.
        ConnectionLostError: if other processes have not connected in time.
    """
    launch = _connect(args)
    if launch is not None:
        setup_for_distributed(launch.rank == 0)


@contextlib.contextmanager
def connected(args: Any) -> Iterator[None]:
    """Context with a process group, if the environment describes one.

    Supports torchrun and Slurm, see `util.distributed.launch`. The backend is NCCL for GPUs, with
    the GPU of the local rank, and gloo for CPUs. Only rank 0 writes to stdout. At the end the
    process group is destroyed, except after an error with NCCL, where destroying it would deadlock:
    end such a process with `exit_status_of` and `exit_process`.

    Args:
        args: namespace of `main.get_args_parser`. Reads ``device``, ``dist_url`` and
            ``dist_timeout`` (seconds per collective). Sets ``distributed``, and in a distributed
            run ``rank``, ``world_size``, ``gpu`` and ``dist_backend``.

    Raises:
        UserError: if environment variables are missing or contradict each other, or there is no
            GPU for this process.
        ConnectionLostError: if a collective in the ``with`` block failed, including those of DDP.
    """
    was_connected = is_dist_avail_and_initialized()
    try:
        launch = _connect(args)
        with only_main_prints(launch.rank if launch else 0), convert_connection_errors(launch):
            yield
    finally:
        if is_dist_avail_and_initialized() and not was_connected:
            _disconnect(sys.exception())


def _disconnect(error: BaseException | None) -> None:
    """Destroy the process group and end its threads.

    The model, which also holds the group, must be freed before. Otherwise its C++ code would end
    the threads of gloo later: without releasing the GIL, for which a thread may wait to free a
    tensor (a deadlock), or while Python exits (an abort).

    Args:
        error: exception that ends the run; its traceback holds the model.
    """
    if error is not None and dist.get_backend() == "nccl":
        return
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()
    dist.destroy_process_group()


def exit_process(status: int) -> NoReturn:
    """End this process; immediately if it failed with a process group, see `connected`."""
    if status and is_dist_avail_and_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    # The exit handler of multiprocessing sends SIGTERM to its children and waits for them. Data
    # workers ignore SIGTERM, so kill them. PyTorch's SIGCHLD handler would report that as an error.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        child.kill()
    sys.exit(status)


def exit_status_of(run: Callable[[], int]) -> int:
    """Exit status that ``run`` returns, for `exit_process`; 1 after an unexpected exception.

    Prints the traceback of the exception itself: the normal shutdown of the interpreter would wait
    for DataLoader workers and other ranks.
    """
    try:
        return run()
    except Exception as err:
        sys.excepthook(type(err), err, err.__traceback__)  # PyTorch's hook prefixes the rank
        return 1


def use_gpu(device: str) -> None:
    """Make a GPU with an index, such as ``cuda:1``, the current device.

    Random states, memory statistics and pinned memory belong to the current device.
    """
    chosen = torch.device(device)
    if chosen.type == "cuda" and chosen.index is not None:
        torch.cuda.set_device(chosen.index)


def all_gather(data: T) -> list[T]:
    """Gather one picklable object from every rank. Collective.

    Args:
        data: the object of this rank; sizes may differ between ranks.

    Returns:
        the objects in the order of the ranks, on every rank.
    """
    if get_world_size() == 1:
        return [data]
    gathered: list[Any] = [None] * get_world_size()
    with convert_connection_errors():
        dist.all_gather_object(gathered, data)
    return gathered


def reduce_dict(input_dict: dict[str, Tensor], average: bool = True) -> dict[str, Tensor]:
    """Sum or average values over all ranks, with one all-reduce. Collective.

    A NaN on one rank makes the result NaN on all ranks.

    Args:
        input_dict: tensors of the same shape and dtype, with the same keys on every rank.
        average: divide the sums by the world size.

    Returns:
        the reduced values, with the keys in the same order; ``input_dict`` itself if the world size
        is 1.
    """
    world_size = get_world_size()
    if world_size == 1 or not input_dict:
        return input_dict
    names = sorted(input_dict)  # the insertion order may differ between ranks
    with torch.no_grad(), convert_connection_errors():
        values = torch.stack([input_dict[name] for name in names])
        dist.all_reduce(values)
        if average:
            values = values / world_size
    reduced = dict(zip(names, values, strict=True))
    return {name: reduced[name] for name in input_dict}


def _connect(args: Any) -> Launch | None:
    """Initialize the process group and set fields of ``args``; None for a run of one process."""
    launch = detect_launch(os.environ)
    args.distributed = launch is not None
    if launch is None:
        if not prints_short(option(args, "log_style")):
            print("Not using distributed mode")
        return None
    address = rendezvous_address(args.dist_url, launch, os.environ)
    gpu = _assign_gpu(launch, args.device) if torch.device(args.device).type == "cuda" else None
    args.rank, args.world_size = launch.rank, launch.world_size
    args.gpu = launch.local_rank if gpu is None else gpu.index
    args.dist_backend = "gloo" if gpu is None else "nccl"
    print(f"| distributed init (rank {launch.rank}): {address}", flush=True)
    timeout = timedelta(seconds=option(args, "dist_timeout"))
    with convert_connection_errors(launch, "the start"):
        by_environment = address.startswith("env://")
        store = attempt_store(os.environ, launch, timeout) if by_environment else None
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
    """Make the GPU with the index of the local rank the current device.

    If Slurm makes a single GPU visible to each task (``--gpus-per-task``), use that GPU.

    Args:
        launch: launcher and ranks of this process.
        device: ``--device``; an index in it must be the index of this GPU.
    """
    visible = torch.cuda.device_count()
    has_single_gpu = launch.launcher == "slurm" and visible == 1
    index = 0 if has_single_gpu else launch.local_rank
    if index >= visible:
        raise UserError(
            f"local rank {launch.local_rank} has no GPU, {visible} are visible: "
            "start one process per GPU, or use --device cpu"
        )
    if torch.device(device).index not in (None, index):
        raise UserError(
            f"--device {device}: local rank {launch.local_rank} uses cuda:{index}: in a "
            "distributed run each process uses the GPU of its local rank; use --device cuda"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)

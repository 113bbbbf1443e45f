"""Processes that train together: who am I, start-up from the environment, small collectives.

Every function also works, and costs nothing, in a program of a single process.
"""

import builtins
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from util.errors import UserError

T = TypeVar("T")

_TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_RENDEZVOUS_VARIABLES = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class _Place:
    """Where a process stands: its number among all, how many there are, its number on this host."""

    rank: int
    world_size: int
    local_rank: int


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
    """Connect to the other processes, if the environment says that there are any.

    Understands torchrun (RANK, WORLD_SIZE, LOCAL_RANK) and Slurm (SLURM_PROCID, SLURM_NTASKS). GPUs
    talk over NCCL, each process owning the GPU of its local rank; CPUs talk over gloo.

    Args:
        args: namespace of `main.get_args_parser`; ``device`` and ``dist_url`` are read,
            ``distributed`` is set, and with it ``rank``, ``world_size``, ``gpu`` and
            ``dist_backend`` where there are several processes.

    Raises:
        UserError: the environment is half set or contradicts itself, or a GPU is missing.
    """
    place = _place_from_torchrun(os.environ) or _place_from_slurm(os.environ)
    args.distributed = place is not None
    if place is None:
        print("Not using distributed mode")
        return
    _check_rendezvous(args.dist_url, os.environ)
    on_gpu = torch.device(args.device).type == "cuda"
    args.rank, args.world_size, args.gpu = place.rank, place.world_size, place.local_rank
    args.dist_backend = "nccl" if on_gpu else "gloo"
    print(f"| distributed init (rank {place.rank}): {args.dist_url}", flush=True)
    dist.init_process_group(
        args.dist_backend,
        init_method=args.dist_url,
        world_size=place.world_size,
        rank=place.rank,
        device_id=_claim_gpu(place.local_rank) if on_gpu else None,
    )
    dist.barrier()
    setup_for_distributed(place.rank == 0)


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
    with torch.no_grad():
        values = torch.stack([input_dict[name] for name in names])
        dist.all_reduce(values)
        if average:
            values = values / world_size
    reduced = dict(zip(names, values, strict=True))
    return {name: reduced[name] for name in input_dict}


def _place_from_torchrun(environment: Mapping[str, str]) -> _Place | None:
    if not any(name in environment for name in ("RANK", "WORLD_SIZE")):
        return None
    _require(environment, _TORCHRUN_VARIABLES, "start with torchrun, or unset the others")
    return _checked_place(*(_number(environment, name) for name in _TORCHRUN_VARIABLES))


def _place_from_slurm(environment: Mapping[str, str]) -> _Place | None:
    """Slurm sets SLURM_PROCID in single jobs and shells too: one task is no distribution."""
    if "SLURM_PROCID" not in environment or environment.get("SLURM_NTASKS", "1") == "1":
        return None
    rank, world_size = _number(environment, "SLURM_PROCID"), _number(environment, "SLURM_NTASKS")
    if "SLURM_LOCALID" in environment:
        return _checked_place(rank, world_size, _number(environment, "SLURM_LOCALID"))
    return _checked_place(rank, world_size, rank % max(torch.cuda.device_count(), 1))


def _require(environment: Mapping[str, str], names: tuple[str, ...], way_out: str) -> None:
    missing = [name for name in names if name not in environment]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} missing from the environment of a distributed run "
            f"that needs {', '.join(names)}: {way_out}"
        )


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise UserError(f"environment: {name}={environment[name]!r} is not a number") from None


def _checked_place(rank: int, world_size: int, local_rank: int) -> _Place:
    if not 0 <= rank < world_size or local_rank < 0:
        raise UserError(
            f"rank {rank} (local rank {local_rank}) of {world_size} processes: ranks count from 0, "
            "check RANK, LOCAL_RANK and WORLD_SIZE or how the job was started"
        )
    return _Place(rank, world_size, local_rank)


def _check_rendezvous(dist_url: str, environment: Mapping[str, str]) -> None:
    if dist_url.startswith("env://"):
        way_out = "start with torchrun, set them, or give --dist_url tcp://HOST:PORT or file://PATH"
        _require(environment, _RENDEZVOUS_VARIABLES, way_out)


def _claim_gpu(local_rank: int) -> torch.device:
    """Make the GPU of this process its current one."""
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"local rank {local_rank} has no GPU, {torch.cuda.device_count()} are visible: "
            "start one process a GPU, or give --device cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)

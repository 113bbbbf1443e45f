"""Connected processes for tests: gloo, on this machine."""

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.cheap_runs import cheap_runs
from tests.programs import forking_context, take_environment

_SECONDS = 240


def run_connected(
    work: Callable[..., Any], folder: Path, /, *worlds: int, **given: Any
) -> list[Any]:
    """What ``work`` returns in groups of connected processes of several sizes, one after the other.

    Starting processes takes longer than most work in them: all groups are made of the same ones,
    forked from the server of `tests.programs`.

    Args:
        work: a function of a module, called with ``given``; its value is saved by `torch.save`.
        folder: for files, one that the caller does not use otherwise.
        worlds: numbers of processes.

    Returns:
        for each of ``worlds`` the values of its processes, in order of rank.
    """
    folder.mkdir(parents=True)
    context = forking_context()
    processes = [
        context.Process(target=_live, args=(work, folder, rank, worlds, given, dict(os.environ)))
        for rank in range(max(worlds))
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(_SECONDS)
    finally:
        for process in processes:
            process.kill()
    faults = [path.read_text() for path in sorted(folder.glob("fault*"))]
    assert all(process.exitcode == 0 for process in processes), "\n".join(faults) or "hanging"
    return [
        [torch.load(folder / f"{world}-{rank}.pt", weights_only=False) for rank in range(world)]
        for world in worlds
    ]


def _live(
    work: Callable[..., Any],
    folder: Path,
    rank: int,
    worlds: tuple[int, ...],
    given: Any,
    environment: dict[str, str],
) -> None:
    take_environment({**environment, "OMP_NUM_THREADS": "1"})
    try:
        for world in worlds:
            if rank < world:
                rendezvous = f"file://{folder}/rendezvous{world}"
                dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
                dist.barrier()  # a quick `work` would leave the group while others still connect
                with cheap_runs():
                    torch.save(work(**given), folder / f"{world}-{rank}.pt")
                if dist.is_initialized():
                    dist.destroy_process_group()
    except BaseException:
        (folder / f"fault{rank}").write_text(traceback.format_exc())
        os._exit(1)  # at once: the others may be waiting for this one

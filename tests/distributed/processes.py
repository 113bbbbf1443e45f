"""Connected processes for tests: gloo, on this machine."""

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.cheap_runs import cheap_runs

_SECONDS = 240
_PRELOADED = ["pytest", "torchvision", "tests.test_main"]


def run_connected(
    work: Callable[..., Any], folder: Path, /, *worlds: int, **given: Any
) -> list[Any]:
    """What ``work`` returns in groups of connected processes of several sizes, one after the other.

    Starting processes takes longer than most work in them: all groups are made of the same ones,
    forked from a server that has imported PyTorch and main.py.

    Args:
        work: a function of a module, called with ``given``; its value is saved by `torch.save`.
        folder: for files, one that the caller does not use otherwise.
        worlds: numbers of processes.

    Returns:
        for each of ``worlds`` the values of its processes, in order of rank.
    """
    folder.mkdir(parents=True)
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
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
    os.environ.clear()
    os.environ |= environment  # the server has that of its own start
    torch.set_num_threads(1)
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

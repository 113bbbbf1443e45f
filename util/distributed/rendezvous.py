"""How the processes of one attempt find each other where a store outlives attempts.

An agent of torchrun keeps one store for all attempts of its workers. After a restart the addresses
of dead workers are still in it, and a worker that comes first would connect to them. The number of
restarts in the environment is no help: every agent counts its own.
"""

import secrets
import time
from datetime import timedelta

import torch.distributed as dist

from util.distributed.launch import Environment, Launch
from util.errors import ConnectionLostError

_POLL_SECONDS = 0.05


def attempt_store(
    environment: Environment, launch: Launch, timeout: timedelta
) -> dist.Store | None:
    """A store that only the processes of this attempt write to.

    Args:
        environment: usually ``os.environ``.
        launch: of this process.
        timeout: for the others to come.

    Returns:
        None where no agent of torchrun keeps a store, and a new one comes with each start.

    Raises:
        ConnectionLostError: some have not come; in rank 0.
        torch.distributed.DistStoreError: rank 0 has not come; in others.
    """
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    shared = dist.TCPStore(host, port, is_master=False, timeout=timeout)
    meeting = dist.PrefixStore("detr_meeting", shared)
    if launch.rank == 0:
        name = open_attempt(meeting, launch.world_size, timeout)
    else:
        name = join(meeting, launch.rank)
    return dist.PrefixStore(name, shared)


def open_attempt(store: dist.Store, world_size: int, timeout: timedelta) -> str:
    """Give a new name to an attempt and tell it to everyone who asks; for rank 0.

    A process asks under a name of its own that is new too. The dead cannot take an answer.

    Args:
        store: may hold what earlier attempts have left.
        world_size: number of processes.
        timeout: for all of them to come.

    Returns:
        the name.

    Raises:
        ConnectionLostError: not all have come.
    """
    name = secrets.token_hex(8)
    missing = list(range(1, world_size))
    deadline = time.monotonic() + timeout.total_seconds()
    while missing:
        if time.monotonic() > deadline:
            raise ConnectionLostError(
                f"rank 0 of {world_size}: the start timed out after {timeout.total_seconds():g} s: "
                f"rank {', '.join(map(str, missing))} never came"
            )
        for rank in missing:
            if store.check([f"asks{rank}"]):
                store.set(f"answer{store.get(f'asks{rank}').decode()}", name)
        missing = [rank for rank in missing if not store.check([f"{name}{rank}"])]
        time.sleep(_POLL_SECONDS if missing else 0)
    return name


def join(store: dist.Store, rank: int) -> str:
    """Ask rank 0 for the name of the attempt; for all others.

    Args:
        store: as for `open_attempt`; its timeout holds.
        rank: of this process.

    Raises:
        torch.distributed.DistStoreError: no answer has come in time.
    """
    own = secrets.token_hex(8)
    store.set(f"asks{rank}", own)
    name = str(store.get(f"answer{own}").decode())
    store.set(f"{name}{rank}", "here")
    return name

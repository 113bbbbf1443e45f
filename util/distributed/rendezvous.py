"""A separate store for each attempt of a torchrun job.

torchrun's agent keeps one store for all attempts (restarts) of its workers. After a restart the
store still contains the addresses of the previous workers, and a new worker would connect to them.
The restart count in the environment does not help, since each agent counts its own restarts.
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
    """Store that only the processes of this attempt use.

    Args:
        environment: usually ``os.environ``.
        launch: launcher and ranks of this process.
        timeout: maximum time for all ranks to join.

    Returns:
        the store; None if torchrun does not share a store between attempts (no action needed).

    Raises:
        ConnectionLostError: on rank 0, if a rank has not joined in time.
        torch.distributed.DistStoreError: on other ranks, if rank 0 has not answered in time.
    """
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    shared = dist.TCPStore(host, port, is_master=False, timeout=timeout)
    rendezvous = dist.PrefixStore("detr_rendezvous", shared)
    if launch.rank == 0:
        name = open_attempt(rendezvous, launch.world_size, timeout)
    else:
        name = join_attempt(rendezvous, launch.rank)
    return dist.PrefixStore(name, shared)


def open_attempt(store: dist.Store, world_size: int, timeout: timedelta) -> str:
    """On rank 0: choose a new name for an attempt, and send it to all other ranks.

    Each request contains a new random key, so requests of previous workers are harmless.

    Args:
        store: shared by all attempts; may contain keys of earlier attempts.
        timeout: maximum time for all ranks to join.

    Returns:
        name of the attempt.

    Raises:
        ConnectionLostError: if a rank has not joined in time.
    """
    name = secrets.token_hex(8)
    missing = list(range(1, world_size))
    deadline = time.monotonic() + timeout.total_seconds()
    while missing:
        if time.monotonic() > deadline:
            raise ConnectionLostError(
                f"rank 0 of {world_size}: the start timed out after {timeout.total_seconds():g} s: "
                f"rank {', '.join(map(str, missing))} never connected"
            )
        for rank in missing:
            if store.check([f"request{rank}"]):
                store.set(f"answer{store.get(f'request{rank}').decode()}", name)
        missing = [rank for rank in missing if not store.check([f"{name}{rank}"])]
        time.sleep(_POLL_SECONDS if missing else 0)
    return name


def join_attempt(store: dist.Store, rank: int) -> str:
    """On other ranks: request the name of the attempt from rank 0, and confirm it.

    Args:
        store: as for `open_attempt`; its timeout applies.

    Raises:
        torch.distributed.DistStoreError: if rank 0 has not answered in time.
    """
    key = secrets.token_hex(8)
    store.set(f"request{rank}", key)
    name = str(store.get(f"answer{key}").decode())
    store.set(f"{name}{rank}", "joined")
    return name

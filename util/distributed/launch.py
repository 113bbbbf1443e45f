"""Launcher (torchrun or Slurm), rank and rendezvous address, read from environment variables."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from util.errors import UserError

Environment = Mapping[str, str]

_TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_SLURM_VARIABLES = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
_SLURM_NODE_LISTS = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")
_RENDEZVOUS_VARIABLES = ("MASTER_ADDR", "MASTER_PORT")
# Below the ephemeral ports of Linux, which start at 32768.
_FIRST_PORT, _NUM_PORTS = 12_000, 20_000
_STEPS_PER_JOB = 16  # job steps that can run concurrently, each with its own port


@dataclass(frozen=True)
class Launch:
    """Launcher and ranks of a process of a distributed run.

    Attributes:
        launcher: ``torchrun`` or ``slurm``.
        rank: rank among all processes, from 0.
        world_size: number of processes.
        local_rank: rank among the processes of this machine, from 0.
    """

    launcher: str
    rank: int
    world_size: int
    local_rank: int


def detect_launch(environment: Environment) -> Launch | None:
    """Detect the launcher of this process; None for a run of one process.

    torchrun takes precedence: ``srun torchrun …`` sets the variables of both.

    Args:
        environment: usually ``os.environ``.

    Raises:
        UserError: if variables of a launcher are missing or contradict each other.
    """
    return _launch_from_torchrun(environment) or _launch_from_slurm(environment)


def _launch_from_torchrun(environment: Environment) -> Launch | None:
    """Launch by torchrun; None if its variables are not set."""
    if not any(name in environment for name in ("RANK", "WORLD_SIZE")):
        return None
    return _launch("torchrun", environment, _TORCHRUN_VARIABLES)


def _launch_from_slurm(environment: Environment) -> Launch | None:
    """Launch by srun; None for one task: Slurm also sets its variables in shells and scripts."""
    rank = environment.get("SLURM_PROCID")
    if rank is None or (rank, environment.get("SLURM_NTASKS", "1")) == ("0", "1"):
        return None
    return _launch("slurm", environment, _SLURM_VARIABLES)


def rendezvous_address(dist_url: str, launch: Launch, environment: Environment) -> str:
    """Address at which the processes of a run connect.

    Args:
        dist_url: ``--dist_url``; returned unchanged unless it starts with ``env://``.
        launch: launcher and ranks of this process.
        environment: MASTER_ADDR and MASTER_PORT. Under Slurm they default to the first node of the
            job and to a port derived from the job id and the step id.

    Returns:
        the ``init_method`` of `torch.distributed.init_process_group`.

    Raises:
        UserError: if a variable is missing or invalid.
    """
    if not dist_url.startswith("env://"):
        return dist_url
    if launch.launcher != "slurm":
        hint = "start with torchrun, set them, or use --dist_url tcp://HOST:PORT or file://PATH"
        _require(environment, _RENDEZVOUS_VARIABLES, hint)
        return dist_url
    host = environment.get("MASTER_ADDR") or _first_slurm_node(environment)
    given_port = environment.get("MASTER_PORT")
    port = _number(environment, "MASTER_PORT") if given_port else _slurm_port(environment)
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"  # IPv6
    return f"tcp://{host}:{port}"


def expand_nodes(nodes: str) -> Iterator[str]:
    """Expand a Slurm node list, in order.

    Args:
        nodes: comma-separated names and patterns; a pattern has numbers and ranges in brackets.

    Yields:
        node names; leading zeros are kept.

    Raises:
        UserError: if brackets are unbalanced or a range is invalid.

    >>> list(expand_nodes("login,node[008-010,12],r[1-2]g[3]"))
    ['login', 'node008', 'node009', 'node010', 'node12', 'r1g3', 'r2g3']
    """
    for pattern in re.findall(r"(?:\[[^]]*\]?|[^,\[])+", nodes):
        parts = re.split(r"\[([^][]*)\]", pattern)  # odd entries were in brackets
        if any(bracket in part for part in parts for bracket in "[]"):
            raise UserError(f"node list {nodes!r}: unbalanced brackets")
        yield from _combinations(parts, nodes)


def _combinations(parts: list[str], nodes: str) -> Iterator[str]:
    """Expand a pattern ``[before, numbers, between, numbers, …]``."""
    if len(parts) == 1:
        yield parts[0]
        return
    before, numbers, *rest = parts
    for number in _numbers_in(numbers, nodes):
        for ending in _combinations(rest, nodes):
            yield before + number + ending


def _numbers_in(ranges: str, nodes: str) -> Iterator[str]:
    """Expand ``3,008-010``; leading zeros are kept."""
    for part in ranges.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part, flags=re.ASCII)
        if found is None:
            raise UserError(f"node list {nodes!r}: [{ranges}] is not a list of numbers and ranges")
        first, last = found[1], found[2] or found[1]
        for number in range(int(first), int(last) + 1):
            yield f"{number:0{len(first)}}"


def _first_slurm_node(environment: Environment) -> str:
    for name in _SLURM_NODE_LISTS:
        if nodes := environment.get(name):
            if (first := next(expand_nodes(nodes), None)) is None:
                raise UserError(f"node list {nodes!r}: contains no node")
            return first
    raise UserError(
        f"environment: {' and '.join(_SLURM_NODE_LISTS)} of Slurm are missing: start with srun, "
        "set MASTER_ADDR, or use --dist_url tcp://HOST:PORT"
    )


def _slurm_port(environment: Environment) -> int:
    """Port derived from job id and step id: the same on all ranks of a step.

    Collisions with other steps are rare.
    """
    hint = "start with srun, set MASTER_PORT, or use --dist_url tcp://HOST:PORT"
    _require(environment, ("SLURM_JOB_ID",), hint)
    job = _number(environment, "SLURM_JOB_ID")
    step = _number(environment, "SLURM_STEP_ID") if "SLURM_STEP_ID" in environment else 0
    return _FIRST_PORT + (job * _STEPS_PER_JOB + step % _STEPS_PER_JOB) % _NUM_PORTS


def _require(environment: Environment, names: tuple[str, ...], hint: str) -> None:
    missing = [name for name in names if name not in environment]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} missing from the environment of a distributed run "
            f"that needs {', '.join(names)}: {hint}"
        )


def _number(environment: Environment, name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise UserError(f"environment: {name}={environment[name]!r} is not a number") from None


def _launch(launcher: str, environment: Environment, names: tuple[str, ...]) -> Launch:
    start = {"torchrun": "torchrun", "slurm": "srun"}[launcher]
    _require(environment, names, f"start with {start}, or unset the others")
    rank, world_size, local_rank = (_number(environment, name) for name in names)
    if not 0 <= rank < world_size or local_rank < 0:
        raise UserError(
            f"rank {rank} (local rank {local_rank}) of {world_size} processes: ranks start at 0; "
            f"check {', '.join(names)} or how the job was started"
        )
    return Launch(launcher, rank, world_size, local_rank)

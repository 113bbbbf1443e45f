"""Who started this process, and what launch that gave it: torchrun, Slurm, or nobody.

Only environment variables are read; nothing is started or connected here.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from util.errors import UserError

Environment = Mapping[str, str]

_TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_SLURM_VARIABLES = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
_SLURM_NODE_LISTS = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")
_RENDEZVOUS_VARIABLES = ("MASTER_ADDR", "MASTER_PORT")
# Below the ports that Linux hands out by itself, from 32768 on.
_FIRST_PORT, _NUM_PORTS = 12_000, 20_000
_STEPS_OF_A_JOB = 16  # that may run at once with a port each


@dataclass(frozen=True)
class Launch:
    """Where a process stands among those that train together.

    Attributes:
        launcher: ``torchrun`` or ``slurm``.
        rank: its number among all processes, from 0.
        world_size: how many there are.
        local_rank: its number on this machine, from 0.
    """

    launcher: str
    rank: int
    world_size: int
    local_rank: int


def detect_launch(environment: Environment) -> Launch | None:
    """The launch of this process, or None where it was started alone.

    Torchrun comes first: ``srun torchrun …`` sets the variables of both.

    Args:
        environment: usually ``os.environ``.

    Raises:
        UserError: variables of a launcher are missing, or contradict each other.
    """
    return launch_from_torchrun(environment) or launch_from_slurm(environment)


def launch_from_torchrun(environment: Environment) -> Launch | None:
    """The launch that RANK, WORLD_SIZE and LOCAL_RANK give; None without the first two.

    Raises:
        UserError: some are missing, or contradict each other.
    """
    if not any(name in environment for name in ("RANK", "WORLD_SIZE")):
        return None
    _require(environment, _TORCHRUN_VARIABLES, "start with torchrun, or unset the others")
    return _launch("torchrun", environment, _TORCHRUN_VARIABLES)


def launch_from_slurm(environment: Environment) -> Launch | None:
    """The launch that SLURM_PROCID, SLURM_NTASKS and SLURM_LOCALID give.

    None for one task: Slurm sets these variables in interactive shells and batch scripts too.

    Raises:
        UserError: some are missing, or contradict each other.
    """
    rank = environment.get("SLURM_PROCID")
    if rank is None or (rank, environment.get("SLURM_NTASKS", "1")) == ("0", "1"):
        return None
    _require(environment, _SLURM_VARIABLES, "start with srun, or unset the others")
    return _launch("slurm", environment, _SLURM_VARIABLES)


def rendezvous_address(dist_url: str, launch: Launch, environment: Environment) -> str:
    """Where the processes of a run find each other.

    Args:
        dist_url: of the flags; anything but ``env://`` is taken as it is.
        launch: of this process.
        environment: MASTER_ADDR and MASTER_PORT in it win. Slurm gives what they leave open: the
            first node of the job, and a port by the number of job and step.

    Returns:
        an ``init_method`` of ``torch.distributed.init_process_group``.

    Raises:
        UserError: something is missing, or is not what it should be.
    """
    if not dist_url.startswith("env://"):
        return dist_url
    if launch.launcher != "slurm":
        way_out = "start with torchrun, set them, or give --dist_url tcp://HOST:PORT or file://PATH"
        _require(environment, _RENDEZVOUS_VARIABLES, way_out)
        return dist_url
    host = environment.get("MASTER_ADDR") or _first_slurm_node(environment)
    given_port = environment.get("MASTER_PORT")
    port = _number(environment, "MASTER_PORT") if given_port else _slurm_port(environment)
    return f"tcp://{host}:{port}"


def expand_nodes(nodes: str) -> Iterator[str]:
    """Names of machines in Slurm's short notation, in its order.

    Args:
        nodes: names and patterns between commas; a pattern has numbers and ranges in brackets.

    Yields:
        names; zeros in front of numbers stay.

    Raises:
        UserError: a bracket is open, or a range is not one of numbers.

    >>> list(expand_nodes("login,node[008-010,12],r[1-2]g[3]"))
    ['login', 'node008', 'node009', 'node010', 'node12', 'r1g3', 'r2g3']
    """
    for pattern in re.findall(r"(?:\[[^]]*\]?|[^,\[])+", nodes):
        parts = re.split(r"\[([^][]*)\]", pattern)  # the odd ones were in brackets
        if any(bracket in part for part in parts for bracket in "[]"):
            raise UserError(f"list of nodes {nodes!r}: a bracket is not closed, or not opened")
        yield from _combinations(parts, nodes)


def _combinations(parts: list[str], nodes: str) -> Iterator[str]:
    """Names by a pattern ``[before, numbers, between, numbers, …]``, one at a time."""
    if len(parts) == 1:
        yield parts[0]
        return
    before, numbers, *rest = parts
    for number in _numbers_in(numbers, nodes):
        for ending in _combinations(rest, nodes):
            yield before + number + ending


def _numbers_in(ranges: str, nodes: str) -> Iterator[str]:
    """The numbers of ``3,008-010`` as they are written: zeros in front stay."""
    for one in ranges.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", one, flags=re.ASCII)
        if found is None:
            raise UserError(f"list of nodes {nodes!r}: [{ranges}] holds no numbers and ranges")
        first, last = found[1], found[2] or found[1]
        for number in range(int(first), int(last) + 1):
            yield f"{number:0{len(first)}}"


def _first_slurm_node(environment: Environment) -> str:
    for name in _SLURM_NODE_LISTS:
        if environment.get(name):
            return _first_of(environment[name])
    raise UserError(
        f"environment: Slurm's {' and '.join(_SLURM_NODE_LISTS)} are missing: start with srun, set "
        "MASTER_ADDR, or give --dist_url tcp://HOST:PORT"
    )


def _first_of(nodes: str) -> str:
    first = next(expand_nodes(nodes), None)
    if first is None:
        raise UserError(f"list of nodes {nodes!r}: names no machine")
    return first


def _slurm_port(environment: Environment) -> int:
    """A port that all processes of a step agree on, and hardly any other step has."""
    way_out = "start with srun, set MASTER_PORT, or give --dist_url tcp://HOST:PORT"
    _require(environment, ("SLURM_JOB_ID",), way_out)
    job = _number(environment, "SLURM_JOB_ID")
    step = _number(environment, "SLURM_STEP_ID") if "SLURM_STEP_ID" in environment else 0
    return _FIRST_PORT + (job * _STEPS_OF_A_JOB + step % _STEPS_OF_A_JOB) % _NUM_PORTS


def _require(environment: Environment, names: tuple[str, ...], way_out: str) -> None:
    missing = [name for name in names if name not in environment]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} missing from the environment of a distributed run "
            f"that needs {', '.join(names)}: {way_out}"
        )


def _number(environment: Environment, name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise UserError(f"environment: {name}={environment[name]!r} is not a number") from None


def _launch(launcher: str, environment: Environment, names: tuple[str, ...]) -> Launch:
    rank, world_size, local_rank = (_number(environment, name) for name in names)
    if not 0 <= rank < world_size or local_rank < 0:
        raise UserError(
            f"rank {rank} (local rank {local_rank}) of {world_size} processes: ranks count from 0, "
            f"check {', '.join(names)} or how the job was started"
        )
    return Launch(launcher, rank, world_size, local_rank)

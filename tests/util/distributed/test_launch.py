"""Launcher, ranks and rendezvous address from every kind of environment."""

import pytest

from util.distributed.launch import Launch, detect_launch, expand_nodes, rendezvous_address
from util.errors import UserError

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}
SLURM_JOB = SLURM | {"SLURM_JOB_NODELIST": "node[003-006]", "SLURM_JOB_ID": "1234567"}
SLURM_LAUNCH = Launch("slurm", 5, 8, 1)


def without(environment, *names):
    return {name: value for name, value in environment.items() if name not in names}


@pytest.mark.parametrize(
    ("environment", "launch"),
    [
        ({}, None),
        ({"LOCAL_RANK": "0"}, None),
        ({"SLURM_NTASKS": "8"}, None),  # the shell of salloc
        ({"SLURM_PROCID": "0"}, None),  # a batch script
        (SLURM | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None),
        (TORCHRUN, Launch("torchrun", 3, 8, 1)),
        (SLURM, SLURM_LAUNCH),
        (SLURM | TORCHRUN, Launch("torchrun", 3, 8, 1)),
    ],
)
def test_place(environment, launch):
    assert detect_launch(environment) == launch


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (without(TORCHRUN, "RANK"), "^RANK missing .*torchrun"),
        (without(TORCHRUN, "WORLD_SIZE", "LOCAL_RANK"), "^WORLD_SIZE and LOCAL_RANK missing"),
        (without(SLURM, "SLURM_NTASKS"), "^SLURM_NTASKS missing .*srun"),
        (without(SLURM, "SLURM_LOCALID"), "^SLURM_LOCALID missing .*srun"),
        (SLURM | {"SLURM_NTASKS": "1"}, "rank 5 .*of 1 processes.*SLURM_NTASKS"),
        (SLURM | {"SLURM_LOCALID": "first"}, "SLURM_LOCALID='first' is not a number"),
    ],
)
def test_an_incomplete_environment_is_refused(environment, message):
    with pytest.raises(UserError, match=message):
        detect_launch(environment)


# ---- where they meet


def test_a_given_address_is_used():
    for url in ("tcp://10.0.0.1:4000", "file:///shared/x"):
        assert rendezvous_address(url, SLURM_LAUNCH, {}) == url


def test_torchrun_leaves_the_address_in_the_environment():
    launch = Launch("torchrun", 0, 2, 0)
    variables = {"MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert rendezvous_address("env://", launch, variables) == "env://"
    with pytest.raises(UserError, match=r"^MASTER_PORT missing .*--dist_url"):
        rendezvous_address("env://", launch, without(variables, "MASTER_PORT"))


def slurm_address(environment):
    scheme, host, port = rendezvous_address("env://", SLURM_LAUNCH, environment).split(":")
    assert scheme == "tcp"
    return host.removeprefix("//"), int(port)


def test_slurm_gives_an_address_that_all_tasks_agree_on():
    host, port = slurm_address(SLURM_JOB)
    assert host == "node003" and 1024 < port < 32768
    assert slurm_address(SLURM_JOB | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}) == (host, port)


def test_jobs_and_steps_on_a_machine_have_different_ports():
    ports = {
        slurm_address(SLURM_JOB | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})[1]
        for job in range(1000, 1100)
        for step in range(16)
    }
    assert len(ports) == 1600


def test_a_step_uses_the_first_of_its_own_nodes():
    host, _ = slurm_address(SLURM_JOB | {"SLURM_STEP_NODELIST": "node[005-006]"})
    assert host == "node005"


def test_variables_of_the_user_override_slurm():
    given = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"}
    assert slurm_address(SLURM_JOB | given) == ("10.0.0.1", 4000)
    assert slurm_address(SLURM | given) == ("10.0.0.1", 4000)
    assert slurm_address(SLURM_JOB | {"MASTER_PORT": "4000"}) == ("node003", 4000)


@pytest.mark.parametrize("address", ["fd00::1", "[fd00::1]"])
def test_ipv6_addresses_are_in_brackets(address):
    given = SLURM_JOB | {"MASTER_ADDR": address, "MASTER_PORT": "4000"}
    assert rendezvous_address("env://", SLURM_LAUNCH, given) == "tcp://[fd00::1]:4000"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (without(SLURM_JOB, "SLURM_JOB_NODELIST"), "SLURM_JOB_NODELIST .*MASTER_ADDR"),
        (without(SLURM_JOB, "SLURM_JOB_ID"), "SLURM_JOB_ID missing .*MASTER_PORT"),
        (SLURM_JOB | {"SLURM_JOB_ID": "x"}, "SLURM_JOB_ID='x' is not a number"),
        (SLURM_JOB | {"SLURM_JOB_NODELIST": "n[1-"}, r"'n\[1-': unbalanced brackets"),
    ],
)
def test_an_incomplete_slurm_job_is_refused(environment, message):
    with pytest.raises(UserError, match=message):
        slurm_address(environment)


# ---- lists of nodes


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        ("login", ["login"]),
        ("a,b.cluster.org", ["a", "b.cluster.org"]),
        ("gpu-a[1,3]", ["gpu-a1", "gpu-a3"]),
        ("node[003-005,012]", ["node003", "node004", "node005", "node012"]),
        ("n[9-11]", ["n9", "n10", "n11"]),
        ("n[099-101]x,m", ["n099x", "n100x", "n101x", "m"]),
        ("r[1-2]n[3,4]", ["r1n3", "r1n4", "r2n3", "r2n4"]),
    ],
)
def test_nodes(nodes, names):
    assert list(expand_nodes(nodes)) == names


def test_the_first_of_very_many_nodes_is_fast():
    assert next(expand_nodes("n[0-99999999999]")) == "n0"


@pytest.mark.parametrize("nodes", ["n[1-2", "n1-2]", "n[[1]]", "n[a-b]", "n[1-]", "n[]", "n[1,,2]"])
def test_an_invalid_node_list_is_refused(nodes):
    with pytest.raises(UserError, match="node list"):
        list(expand_nodes(nodes))

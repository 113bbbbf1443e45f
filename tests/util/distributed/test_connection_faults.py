"""Connection errors, alone and with two processes of which one ends or is stuck."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.programs import ForkedProgram
from util.distributed.connection_faults import convert_connection_errors
from util.distributed.launch import Launch
from util.errors import ConnectionLostError, UserError

ROOT = Path(__file__).resolve().parents[3]
SLOW = pytest.mark.slow
LAUNCH = Launch("torchrun", rank=3, world_size=8, local_rank=1)
CLOSED = "[/src/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.7]:7900"


def message_of(error: Exception) -> str:
    with pytest.raises(ConnectionLostError) as raised, convert_connection_errors(LAUNCH):
        raise error
    message = str(raised.value)
    assert "\n" not in message and message.startswith("rank 3 of 8: communication ")
    return message


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError(CLOSED), "lost its connection (Connection closed by peer): another process"),
        (RuntimeError("[gloo/x.cc:1] Timed out waiting 1500ms for recv"), "timed out after 1.5 s:"),
        (dist.DistStoreError("Timed out after 31 seconds waiting"), "timed out after 31 s:"),
        (dist.DistNetworkError("The client socket has timed out"), "timed out: another process"),
        (dist.DistBackendError("NCCL error: invalid usage\nat line 3"), "(NCCL error: invalid us"),
        (RuntimeError("NCCL Error 5: invalid usage"), "failed (NCCL Error 5: invalid usage)"),
        (RuntimeError("broken: ncclSystemError."), "failed (broken: ncclSystemError.)"),
        (RuntimeError("Gloo connectFullMesh failed"), "failed (Gloo connectFullMesh failed)"),
        (
            RuntimeError("[enforce fail at /src/gloo/gloo/device.cc:84] no address"),
            "failed ([enforce fail at /src/gloo/gloo/device.cc:84] no address)",
        ),
    ],
)
def test_connection_errors_become_one_line(error, words):
    assert words in message_of(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape '[2]' is invalid for input of size 3"),
        RuntimeError("DataLoader timed out after 5 seconds"),
        RuntimeError("write: Broken pipe"),
        RuntimeError(""),
        RuntimeError("File /mnt/igloo/x.pth cannot be opened"),
        RuntimeError("File /data/gloo/x.pth cannot be opened: timed out"),
        RuntimeError("/data/NCCL/x.jpg: Broken pipe"),
        RuntimeError("/mnt/NCCL: Broken pipe"),
        RuntimeError("NCCL/x.jpg: Broken pipe"),
        RuntimeError("[/mnt/igloo/x.cc:5] Broken pipe"),
        RuntimeError("libnccl.so.2: cannot open shared object file"),
        ValueError(CLOSED),
        UserError("broken.jpg"),
        ConnectionLostError("reported already"),
    ],
)
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as raised, convert_connection_errors(LAUNCH):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(CLOSED),
        RuntimeError("File /mnt/igloo/x.pth cannot be opened"),
        dist.DistBackendError("NCCL error: invalid usage"),
    ],
)
def test_all_errors_pass_without_a_process_group(error):
    with pytest.raises(type(error)) as raised, convert_connection_errors():
        raise error
    assert raised.value is error


def test_a_port_in_use_is_reported_with_the_fix():
    with pytest.raises(UserError, match="set MASTER_PORT"), convert_connection_errors(LAUNCH):
        raise dist.DistNetworkError(
            "port: 29500, code: -98, name: EADDRINUSE, address already in use"
        )


# ---- two processes, of which one ends or is stuck


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def two_processes(where, how, timeout):
    """Exit status and output of both; a stuck process is killed after the other has ended."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    shared |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("lost_process.py")
    command = [sys.executable, "-W", "error", str(script), where, how, str(timeout)]
    processes = [
        ForkedProgram(
            command,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        left = processes[0].communicate(timeout=120)
        if how == "stuck":
            processes[1].kill()
        missing = processes[1].communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *output) for p, output in zip(processes, (left, missing), strict=True)]


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("where", "how", "status_of_other", "words"),
    [
        pytest.param(*("all_gather", "stuck", -9, "all_gather_object timed out"), marks=SLOW),
        ("backward", "stuck", -9, "all_reduce of the gradients timed out after 3 s: "),
        ("reduce_dict", "mistake", 2, "all_reduce lost its connection (Connection "),
        pytest.param(*("reduce_dict", "interrupted", 130, "all_reduce lost its co"), marks=SLOW),
        pytest.param(*("start", "killed", -9, "init_process_group timed out after "), marks=SLOW),
    ],
)
def test_the_other_process_ends_in_one_line(where, how, status_of_other, words):
    # A user error and Ctrl-C are noticed without a timeout.
    timeout = 3 if how in ("stuck", "killed") else 300
    (status, out, error), (other_status, other_out, other_error) = two_processes(
        where, how, timeout
    )
    (line,) = error.splitlines()
    assert line.startswith(f"main.py: error: rank 0 of 2: {words}")
    assert (status, other_status) == (1, status_of_other)
    assert ("printed by 0" in out) == (where != "start")
    assert "printed by" not in other_out
    assert len(other_error.splitlines()) == (0 if other_status == -9 else 1)

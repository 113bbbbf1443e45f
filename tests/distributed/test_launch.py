"""Runs of several processes under torchrun: killed ones, several machines, namespaces."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.drawn_data import drawn_data
from tests.narrow_resnet import SHALLOW
from tests.programs import ForkedProgram
from tests.test_main import FLAGS, ROOT, read_log
from tests.training.test_resume import assert_same_runs, wait_for

MAIN = [str(Path(__file__).with_name("narrow_main.py"))]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
# Five steps an epoch of two processes with an image each; dropout and augmentation are on.
RUN = ["--epochs", "3", "--lr_drop", "2", "--lr", "1e-3", "--batch_size", "1"]
RUN += ["--auto_resume", "--dist_timeout", "100"]

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

data = drawn_data(num_train=10, num_val=3)


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish(start(["--standalone", "--nproc_per_node", "2"], MAIN, data, folder))
    return folder


def start(launch, script, data, folder, prefix=(), **variables):
    """An agent of torchrun, in a session of its own."""
    command = [*prefix, *TORCHRUN, *launch, *script, *FLAGS, "--backbone", SHALLOW, *RUN]
    command += ["--coco_path", str(data), "--output_dir", str(folder)]
    popen = subprocess.Popen if prefix else ForkedProgram
    return popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **variables},
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(*agents, statuses=(0,)):
    """What agents have written; all of them are gone afterwards."""
    try:
        outputs = [agent.communicate(timeout=300)[0] for agent in agents]
    finally:
        for agent in agents:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(agent.pid, signal.SIGTERM)
    assert all(agent.returncode in statuses for agent in agents), "\n".join(outputs)
    return outputs


@pytest.mark.parametrize(("rank", "step", "save_every"), [(1, 7, 2), (0, 3, 0)])
def test_a_killed_worker_costs_nothing(data, uninterrupted, tmp_path, rank, step, save_every):
    launch = ["--standalone", "--nproc_per_node", "2", "--max-restarts", "1"]
    script = [str(Path(__file__).with_name("killed_main.py")), str(rank), str(step)]
    agent = start(launch, [*script, "--save_every", str(save_every)], data, tmp_path)
    (output,) = finish(agent)
    assert output.count("| distributed init (rank 0)") == 2
    assert ("Resuming with epoch" in output) == (save_every > 0)
    assert_same_runs(tmp_path, uninterrupted)


def free_port(host="localhost"):
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def meeting(nnodes, endpoint):
    flags = f"--nnodes {nnodes} --nproc_per_node 1 --rdzv_backend c10d --rdzv_id tests "
    return (flags + f"--rdzv_endpoint {endpoint}").split()


def test_two_agents_on_one_host_train_as_one_with_two_processes(data, uninterrupted, tmp_path):
    launch = [*meeting("2", f"localhost:{free_port()}"), "--local_addr", "localhost"]
    finish(*(start(launch, MAIN, data, tmp_path) for _ in range(2)))
    assert_same_runs(tmp_path, uninterrupted)


def test_a_lost_machine_leaves_the_run_to_the_others(data, tmp_path):
    launch = [*meeting("1:2", f"localhost:{free_port()}"), "--local_addr", "localhost"]
    launch += ["--max-restarts", "3", "--rdzv_conf"]
    wait = "last_call_timeout=4,keep_alive_interval=1"
    first, second = (
        start([*launch, f"is_host={is_host},{wait}"], [*MAIN, "--save_every", "2"], data, tmp_path)
        for is_host in (1, 0)
    )
    wait_for(tmp_path / "log.txt", first)
    for pid in [second.pid, *children_of(second.pid)]:
        os.kill(pid, signal.SIGKILL)
    (output,) = finish(first)
    second.communicate(timeout=60)
    assert "Resuming with epoch" in output
    assert [entry["epoch"] for entry in read_log(tmp_path)] == [0, 1, 2]


def children_of(pid):
    return map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def interrupted(data, folder):
    """What torchrun and its two processes print if it gets Ctrl-C after the first epoch."""
    launch = ["--standalone", "--nproc_per_node", "2"]
    agent = start(launch, [*MAIN, "--epochs", "999"], data, folder)
    wait_for(folder / "log.txt", agent)
    agent.send_signal(signal.SIGINT)
    return finish(agent, statuses=(1, 130))[0]


def test_ctrl_c_to_torchrun_saves_once(data, tmp_path):
    output = interrupted(data, tmp_path / "run")
    # In PyTorch 2.11 `torch.distributed.elastic.metrics.prof` fails if a signal comes before its
    # clock has started. torchrun then kills its processes.
    if "UnboundLocalError: cannot access local variable 'start'" in output:
        output = interrupted(data, tmp_path / "again")
    assert output.count("stopped by SIGINT") == 2
    assert "checkpoint saved; continue with --output_dir" in output


# ---- two machines: namespaces with a cable between them


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True)


@pytest.fixture
def two_namespaces():
    """Names and addresses of two network namespaces that reach each other, and nothing else."""
    if shutil.which("ip") is None:
        pytest.skip("needs the command ip (iproute2)")
    names = [f"detr{os.getpid()}{side}" for side in "ab"]
    addresses = ["10.213.7.1", "10.213.7.2"]
    try:
        for name in names:
            ip("netns", "add", name)
        ends = ["type", "veth", "peer", "name", "cable", "netns", names[1]]
        ip("link", "add", "cable", "netns", names[0], *ends)
        for name, address in zip(names, addresses, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            for device in ("cable", "lo"):
                ip("-n", name, "link", "set", device, "up")
        yield list(zip(names, addresses, strict=True))
    except subprocess.CalledProcessError as err:
        pytest.skip(f"no network namespaces here: {err.stderr.strip()}")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def test_two_namespaces_train_as_one_with_two_processes(
    data, uninterrupted, tmp_path, two_namespaces
):
    launch = meeting("2", f"{two_namespaces[0][1]}:29400")
    # Neither could tell from its own name, which leads nowhere, that it is the one to be met.
    agents = [
        start(
            [*launch, "--local_addr", address, "--rdzv_conf", f"is_host={int(number == 0)}"],
            MAIN,
            data,
            tmp_path,
            prefix=["ip", "netns", "exec", name],
            GLOO_SOCKET_IFNAME="cable",
        )
        for number, (name, address) in enumerate(two_namespaces)
    ]
    finish(*agents)
    assert_same_runs(tmp_path, uninterrupted)

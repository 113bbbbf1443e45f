"""A single process, every kind of environment, and two connected processes."""

import argparse
import builtins
import contextlib
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

import main
from datasets.shapes.directory import write_shapes
from tests.programs import ForkedProgram, run_forked
from tests.test_main import FLAGS
from training import data
from util.cli.signals import StopRequested
from util.distributed import processes as distributed
from util.errors import UserError
from util.reproducibility import random_state
from util.system import devices

ROOT = Path(__file__).resolve().parents[3]
SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "2",
    "SLURM_JOB_NODELIST": "gpu[03-04]",
    "SLURM_JOB_ID": "77",
}
TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    """Remove the variables of launchers, and restore ``print`` at the end."""
    for name in (*TORCHRUN, *SLURM):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(builtins, "print", builtins.print)


@pytest.fixture
def connect(monkeypatch):
    """Call `init_distributed_mode` with given variables; record the process group's arguments."""
    asked = {}

    def fake_init(backend, **options):
        asked.update(options, backend=backend)

    monkeypatch.setattr(torch.distributed, "init_process_group", fake_init)
    monkeypatch.setattr(torch.distributed, "barrier", lambda: None)

    def run(variables, dist_url="env://", device="cpu", **given):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        args = argparse.Namespace(device=device, dist_url=dist_url, world_size=1, **given)
        distributed.init_distributed_mode(args)
        return args, asked

    return run


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in TORCHRUN.items() if name not in names}


# ---- one process ---------------------------------------------------------------------------------


def test_a_single_process_is_rank_0_of_1():
    assert not distributed.is_dist_avail_and_initialized()
    assert (distributed.get_rank(), distributed.get_world_size()) == (0, 1)
    assert distributed.is_main_process()


def test_collectives_of_a_single_process_return_their_input():
    data, values = {"a": 1}, {"loss": torch.ones(())}
    gathered = distributed.all_gather(data)
    assert len(gathered) == 1 and gathered[0] is data
    assert distributed.reduce_dict(values) is values
    assert distributed.reduce_dict(values, average=False) is values


def test_only_the_main_process_prints(capsys):
    for is_master in (True, False, True):
        distributed.setup_for_distributed(is_master)
        print(f"normal {is_master}", end=";")
        print(f"forced {is_master}", force=True, end=";")
    printed = capsys.readouterr().out
    assert printed == "normal True;forced True;forced False;normal True;forced True;"


# ---- start-up ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables",
    [{}, {"SLURM_PROCID": "0"}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, {"LOCAL_RANK": "0"}],
)
def test_an_ordinary_start_is_not_distributed(connect, capsys, variables):
    args, asked = connect(variables)
    assert args.distributed is False
    assert asked == {}
    assert capsys.readouterr().out == "Not using distributed mode\n"


def test_torchrun(connect, capsys):
    args, asked = connect(TORCHRUN)
    assert (args.rank, args.world_size, args.gpu) == (3, 8, 1)
    assert (args.distributed, args.dist_backend) == (True, "gloo")
    assert (asked["rank"], asked["world_size"], asked["backend"]) == (3, 8, "gloo")
    assert asked["init_method"] == "env://"
    assert capsys.readouterr().out == "| distributed init (rank 3): env://\n"
    print("not the main process")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("dist_url", "address"), [("tcp://host:1", "tcp://host:1"), ("env://", "tcp://gpu03:13232")]
)
def test_slurm(connect, dist_url, address):
    args, asked = connect(SLURM, dist_url)
    assert (args.rank, args.world_size, args.gpu) == (5, 8, 2)
    assert asked["init_method"] == address


@pytest.mark.parametrize(("visible", "gpu"), [(4, 2), (1, 0)])
def test_slurm_may_make_one_gpu_visible_per_task(connect, monkeypatch, visible, gpu):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    args, asked = connect(SLURM, device="cuda")
    assert args.gpu == gpu
    assert asked["device_id"] == torch.device("cuda", gpu)


@pytest.mark.parametrize(("given", "seconds"), [({}, 1800), ({"dist_timeout": 7}, 7)])
def test_dist_timeout_is_the_timeout_of_collectives(connect, given, seconds):
    _, asked = connect(TORCHRUN, **given)
    assert asked["timeout"].total_seconds() == seconds


def test_a_gpu_process_uses_the_gpu_of_its_local_rank(connect, monkeypatch):
    claimed = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", claimed.append)
    args, asked = connect(TORCHRUN, device="cuda")
    assert (args.dist_backend, asked["backend"]) == ("nccl", "nccl")
    assert claimed == [1]
    assert asked["device_id"] == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("variables", "device", "message"),
    [
        (without("RANK"), "cpu", "RANK missing .* torchrun"),
        (without("WORLD_SIZE"), "cpu", "WORLD_SIZE missing .* torchrun"),
        (without("LOCAL_RANK"), "cpu", "LOCAL_RANK missing .* torchrun"),
        (without("MASTER_ADDR", "MASTER_PORT"), "cpu", "MASTER_ADDR and MASTER_PORT missing"),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, "cpu", "SLURM_LOCALID missing .* srun"),
        (TORCHRUN | {"RANK": "two"}, "cpu", "RANK='two' is not a number"),
        (TORCHRUN | {"RANK": "8"}, "cpu", "rank 8 .* of 8 processes"),
        (TORCHRUN | {"RANK": "-1"}, "cpu", "ranks start at 0"),
        (TORCHRUN, "cuda", "local rank 1 has no GPU, 0 are visible: .*--device cpu"),
    ],
)
def test_an_incomplete_environment_is_refused(connect, monkeypatch, variables, device, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=message) as error:
        connect(variables, device=device)
    assert "\n" not in str(error.value)


def test_connected_restores_stdout_and_keeps_print(tmp_path, monkeypatch, capsys):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    before = builtins.print, sys.stdout
    for number, error in enumerate((None, UserError("x"), KeyboardInterrupt())):
        args = argparse.Namespace(device="cpu", dist_url=f"file://{tmp_path}/meet{number}")
        with contextlib.suppress(UserError, KeyboardInterrupt), distributed.connected(args):
            assert distributed.is_dist_avail_and_initialized()
            assert builtins.print is before[0]
            torch.distributed.barrier()
            if error is not None:
                raise error
        assert not distributed.is_dist_avail_and_initialized()
        assert (builtins.print, sys.stdout) == before


AS_IF_OVER_NCCL = """
import atexit, runpy, sys, torch.distributed
from training import data
def run_out_of_memory(*_):
    raise RuntimeError("CUDA out of memory")
data.build_data = run_out_of_memory
_, backend, url = sys.argv
torch.distributed.get_backend = lambda *_: backend
atexit.register(print, "waits for the others at exit")
sys.argv = ["main.py", "--device", "cpu", "--dist_url", url]
runpy.run_path("main.py", run_name="__main__")
"""


@pytest.mark.distributed
@pytest.mark.parametrize(("backend", "ends_at_once"), [("nccl", True), ("gloo", False)])
def test_an_unexpected_error_over_nccl_ends_the_process_at_once(tmp_path, backend, ends_at_once):
    place = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", AS_IF_OVER_NCCL, backend, f"file://{tmp_path}/meet"]
    environment = os.environ | place | {"PYTHONPATH": str(ROOT)}
    ended = run_forked(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert lines[0] == "[rank0]: Traceback (most recent call last):"
    assert "[rank0]: RuntimeError: CUDA out of memory" in lines
    assert ("waits for the others" not in ended.stdout) == ends_at_once
    assert "git:" in ended.stdout  # what was printed before is not lost


FAILING_WITH_WORKERS = """
import runpy, sys
from models.criterion import SetCriterion
def run_out_of_memory(*_):
    raise RuntimeError("CUDA out of memory")
SetCriterion.forward = run_out_of_memory
sys.argv[0] = "main.py"
runpy.run_path("main.py", run_name="__main__")
"""


@pytest.mark.distributed
def test_an_unexpected_error_ends_a_process_with_data_workers(tmp_path):
    """They outlive one SIGTERM, and the interpreter would wait for them at its exit."""
    write_shapes(tmp_path / "data", num_train=4, num_val=1, image_size=64)
    flags = [*FLAGS, "--coco_path", str(tmp_path / "data"), "--output_dir", ""]
    ended = run_forked(
        [sys.executable, "-c", FAILING_WITH_WORKERS, *flags, "--num_workers", "2"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "RuntimeError: CUDA out of memory"


def test_an_unexpected_error_is_printed_and_gives_status_1(capsys):
    def fail():
        raise RuntimeError("out of memory")

    assert distributed.exit_status_of(fail) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("RuntimeError: out of memory")
    assert distributed.exit_status_of(lambda: 3) == 3


@pytest.mark.parametrize(("device", "current"), [("cuda:1", [1]), ("cuda", []), ("cpu", [])])
def test_a_single_process_makes_the_gpu_of_its_flag_the_current_one(monkeypatch, device, current):
    claimed = []
    monkeypatch.setattr(torch.cuda, "set_device", claimed.append)
    monkeypatch.setattr(devices, "check_device", lambda name: claimed.clear())
    monkeypatch.setattr(random_state, "seed_everything", lambda seed: None)
    seen = []

    def build_data(*_):
        seen.append(list(claimed))
        raise UserError("no data")

    monkeypatch.setattr(data, "build_data", build_data)
    assert main.run(["--device", device]) == 2
    assert seen == [current]  # before data, model and random states


def test_an_existing_connection_is_kept(tmp_path):
    url = f"file://{tmp_path}/meet"
    torch.distributed.init_process_group("gloo", init_method=url, rank=0, world_size=1)
    try:
        args = argparse.Namespace(device="cpu", dist_url=url)
        with distributed.connected(args):
            assert args.distributed is False
        assert distributed.is_dist_avail_and_initialized()
    finally:
        torch.distributed.destroy_process_group()


def test_no_thread_of_gloo_outlives_the_connection(tmp_path, monkeypatch):
    for name, value in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1)):
        monkeypatch.setenv(name, str(value))
    args = argparse.Namespace(device="cpu", dist_url=f"file://{tmp_path}/meet")

    with distributed.connected(args):
        cycle = [torch.distributed.group.WORLD]
        cycle.append(cycle)
        del cycle
        torch.distributed.all_reduce(torch.ones(1))
        assert "pt_gloo_runloop" in thread_names()
    assert "pt_gloo_runloop" not in thread_names()


@pytest.mark.parametrize("failure", [None, StopRequested(15, "stopped"), "converted"])
def test_the_model_is_freed_before_the_group(tmp_path, monkeypatch, failure):
    """Also by the frames of a traceback: DDP's destructor would wait for gloo holding the GIL."""
    for name, value in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1)):
        monkeypatch.setenv(name, str(value))
    args = argparse.Namespace(device="cpu", dist_url=f"file://{tmp_path}/meet")
    seen, destroy = [], torch.distributed.destroy_process_group

    def train():
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1))
        model.cycle = model
        seen.append(weakref.ref(model))
        if failure == "converted":
            try:
                raise RuntimeError("fault")
            except RuntimeError as error:
                raise UserError("one line") from error
        if failure is not None:
            raise failure

    def destroy_group():
        seen.append(seen[0]())
        destroy()

    monkeypatch.setattr(torch.distributed, "destroy_process_group", destroy_group)
    with contextlib.suppress(StopRequested, UserError), distributed.connected(args):
        train()
    assert seen[1] is None


def thread_names():
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


# ---- two processes -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Results and output of two connected processes, and the folder that they wrote to."""
    folder = tmp_path_factory.mktemp("two")
    script = Path(__file__).with_name("two_processes.py")
    command = [sys.executable, str(script), f"file://{folder}/rendezvous", str(folder)]
    running = []
    for rank in range(2):
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
        environment = os.environ | place | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running.append(ForkedProgram(command, env=environment, text=True, **pipes))
    try:
        printed = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], printed
    seen = [json.loads((folder / f"seen{rank}.json").read_text()) for rank in range(2)]
    return seen, [out for out, _ in printed], folder


@pytest.mark.distributed
def test_two_processes_have_ranks(two_processes):
    seen, printed, _ = two_processes
    assert [s["place"] for s in seen] == [[0, 2, True, "gloo"], [1, 2, True, "gloo"]]
    assert ["printed by the main process only" in out for out in printed] == [True, False]


@pytest.mark.distributed
def test_two_processes_gather_and_reduce(two_processes):
    seen, _, _ = two_processes
    for view in seen:
        assert view["gathered"] == [{"rank": 0, "text": ""}, {"rank": 1, "text": "x"}]
        assert view["average"] == {"a": 10.5, "b": 0.5}
        assert view["sum"] == {"a": 21.0, "b": 1.0}
    assert [list(view["average"]) for view in seen] == [["b", "a"], ["a", "b"]]


@pytest.mark.distributed
def test_two_processes_share_their_meters(two_processes):
    seen, _, _ = two_processes
    losses = [0, 1, 2, 10, 11, 12, 13]
    expected = {
        "loss": [7, sum(losses), sum(losses) / 7],
        "class_error": [4, 6, 1.5],
        "only_here": [1, 4, 4],
    }
    for view in seen:
        assert view["meters"].keys() == expected.keys()
        for name, numbers in expected.items():
            assert view["meters"][name] == pytest.approx(numbers)


@pytest.mark.distributed
def test_only_rank_0_writes(two_processes):
    _, _, folder = two_processes
    assert torch.load(folder / "checkpoint.pth", weights_only=True) == {"rank": 0}

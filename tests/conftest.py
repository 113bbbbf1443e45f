"""What all tests share: those of the GPU are skipped where there is none, examples repeat.

Without its profile, hypothesis would try other examples in each run, and write them to a folder.
Garbage collection passes over modules and collected tests, which stay until the end.
"""

import gc
import signal
from collections.abc import Iterator

import hypothesis
import pytest

from tests.cheap_runs import cheap_runs

hypothesis.settings.register_profile(
    "repeatable", derandomize=True, max_examples=150, deadline=None, database=None
)
hypothesis.settings.load_profile("repeatable")

# Tests press Ctrl-C; in the background of a script it is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Files of more than about 12 seconds come first, the longest before the others, so that no process
# of pytest-xdist has one left at the end. The first four are long with their slow tests. Two files
# that read the same ONNX file are not neighbors: one process would wait for the other's export.
LONGEST = (
    "training/test_kill.py",
    "distributed/test_launch.py",
    "test_submitit.py",
    "contracts/test_original_cases.py",
    "training/test_resume.py",
    "export/huggingface/test_huggingface.py",
    "export/test_precision.py",
    "test_hubconf.py",
    "export/test_program.py",
    "training/optimization/test_stages.py",
    "training/flags/test_saved.py",
    "examples/test_examples.py",
    "training/test_compilation.py",
    "distributed/test_ddp.py",
    "distributed/test_ddp_state.py",
    "training/test_best_weights.py",
    "distributed/test_ddp_main.py",
    "distributed/test_ddp_stages.py",
    "export/test_onnx.py",
)


@pytest.fixture(scope="session", autouse=True)
def without_report_and_pictures() -> Iterator[None]:
    with cheap_runs():
        yield


def pytest_collection() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"tests/{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.nodeid.split("::")[0], len(order)))

    import torch  # here: the process that starts those of pytest-xdist does not need it

    if not torch.cuda.is_available():
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))

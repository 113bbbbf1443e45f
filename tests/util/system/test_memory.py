"""Settings of glibc's allocator, in processes of their own; the pause of garbage collection."""

import gc
import subprocess
import sys

import pytest

from util.system import memory
from util.system.memory import garbage_collection_paused

# Prints how many pages the kernel had to provide for a block that was freed before.
COUNT_FAULTS = """
import resource, sys
from util.system.memory import keep_freed_memory
if sys.argv[1] != "default":
    assert keep_freed_memory()
if sys.argv[1] == "off again":
    assert keep_freed_memory(False)
bytes(bytearray(64 * 2**20)[:0])
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(64 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is on Linux")
@pytest.mark.parametrize(
    ("mode", "reused"), [("default", False), ("on", True), ("off again", False)]
)
def test_freed_memory_is_reused(mode, reused):
    command = [sys.executable, "-c", COUNT_FAULTS, mode]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    num_faults, num_pages = int(result.stdout), 64 * 2**20 // 4096
    assert (num_faults < num_pages / 10) is reused


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not memory.keep_freed_memory()


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert not memory.keep_freed_memory()


def test_garbage_collection_is_paused_in_the_block_only():
    with garbage_collection_paused():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(KeyError), garbage_collection_paused():
        raise KeyError
    assert gc.isenabled()


def test_a_disabled_collector_is_not_enabled():
    gc.disable()
    try:
        with garbage_collection_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()

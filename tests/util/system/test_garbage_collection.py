"""The pause of garbage collection ends with the block, also after an error."""

import gc

import pytest

from util.system.garbage_collection import garbage_collection_paused


def test_it_is_paused_in_the_block_only():
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

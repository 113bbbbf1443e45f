"""The end of a run after a signal: the same on all ranks, whichever of them received it."""

import signal
from types import SimpleNamespace

import pytest

from training import stopping
from training.progress import Progress
from util.cli.signals import StopRequested

INT, TERM, USR1 = signal.SIGINT, signal.SIGTERM, signal.SIGUSR1


@pytest.mark.parametrize(
    ("received", "wanted"),
    [
        ([TERM, None], TERM),
        ([None, INT], INT),
        ([None, INT, TERM], INT),  # of the lowest rank
        ([TERM, USR1], USR1),  # a job that is put into the queue again
        ([USR1, TERM], USR1),
    ],
)
def test_all_ranks_end_with_the_same_signal(monkeypatch, tmp_path, received, wanted):
    monkeypatch.setattr(stopping, "all_gather", lambda own: received)
    for own in received:
        with pytest.raises(StopRequested) as raised:
            stopping.stop(SimpleNamespace(received=own), Progress(epoch=3, step=40), tmp_path)
        assert raised.value.exit_status == 128 + wanted
        assert f"{wanted.name} in epoch 3, after 40 steps in total" in str(raised.value)

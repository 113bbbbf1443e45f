"""Progress of a run that all ranks share."""

from types import SimpleNamespace

import pytest

from training import loop
from training.progress import Progress


def test_messages_of_all_ranks_are_merged_where_the_loaders_append_them(monkeypatch):
    progress = Progress(bad_images=["c", "a"])
    of_loaders = progress.bad_images
    monkeypatch.setattr("training.progress.all_gather", lambda own: [own, ["b", "a"]])
    progress.share_bad_images()
    of_loaders.append("d")
    assert progress.bad_images == ["a", "b", "c", "d"]


@pytest.mark.parametrize("decided", [True, False])
def test_rank_0_decides_whether_the_last_epoch_is_evaluated_again(monkeypatch, decided):
    """While it writes the log, other ranks would read another one."""
    monkeypatch.setattr(loop, "broadcast_object", lambda own: decided)
    folder = SimpleNamespace(holds=lambda path: True, has_logged=lambda epoch: decided)
    progress = Progress(epoch=2, train_stats={"loss": 1.0})
    run = SimpleNamespace(
        progress=progress, folder=folder, settings=SimpleNamespace(resume="x.pth")
    )
    assert loop.Run._last_epoch_is_not_logged(run) == decided
    progress.scores[1] = 0.5
    assert not loop.Run._last_epoch_is_not_logged(run)

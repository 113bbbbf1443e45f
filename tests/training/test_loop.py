"""Single methods of the epoch loop; whole runs are in test_resume.py."""

import signal
from types import SimpleNamespace

import pytest

from training import loop
from training.optimization.plan import TrainingPlan
from training.progress import Progress
from util.metric_logger import MetricLogger

PLAN = TrainingPlan(epochs=2, batch_size=2, accum_steps=1)


def test_the_log_has_the_bad_images_of_all_ranks(monkeypatch):
    """Images of the validation data are found after the checkpoint, which shares the earlier."""
    monkeypatch.setattr("training.progress.all_gather", lambda own: [own, ["b.jpg"]])
    entries = []
    run = SimpleNamespace(
        progress=Progress(epoch=1, bad_images=["a.jpg"]),
        plan=PLAN,
        training=SimpleNamespace(optimizer=SimpleNamespace(param_groups=[])),
        folder=SimpleNamespace(append_log=entries.append),
        tensorboard=None,
    )
    loop.Run._log_epoch(run, {}, {})
    assert [entry["bad_images"] for entry in entries] == [["a.jpg", "b.jpg"]]


def test_a_step_just_skipped_counts_in_its_checkpoint(tmp_path):
    run = SimpleNamespace(
        progress=Progress(),
        settings=SimpleNamespace(save_every=1),
        plan=PLAN,
        training=SimpleNamespace(averaged=None),
        folder=SimpleNamespace(path=tmp_path),
    )
    saved = []
    run._save = lambda epoch: saved.append(run.progress.skipped_steps)

    def skip():
        run.progress.skipped_steps += 1

    run.watch = SimpleNamespace(stop_agreed=False, read_flags=skip)
    loop.Run._after_step(run, 1, MetricLogger())
    assert saved == [1]


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


@pytest.mark.parametrize("world", [1, 2])
def test_of_several_processes_none_stops_within_an_evaluation(monkeypatch, world):
    """The others would wait for it at the end."""
    monkeypatch.setattr(loop, "get_world_size", lambda: world)
    stops = []
    run = SimpleNamespace(
        signals=SimpleNamespace(received=signal.SIGTERM), _stop=lambda: stops.append(world)
    )
    loop.Run._stop_evaluation(run)
    assert stops == [1] * (world == 1)

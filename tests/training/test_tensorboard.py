"""--tensorboard, with a writer that records its calls: the package is optional."""

import importlib.util
import sys
import types

import pytest
from PIL import Image

from tests.test_main import data, run  # noqa: F401  (a fixture)
from training import tensorboard
from training.tensorboard import TensorboardLog, scalars_in


class RecordingWriter:
    def __init__(self, log_dir, purge_step):
        self.calls = [("open", log_dir, purge_step)]
        RecordingWriter.last = self

    def add_scalar(self, name, value, step):
        self.calls.append((name, value, step))

    def add_image(self, name, pixels, step, dataformats):
        self.calls.append((name, pixels.shape, step, dataformats))

    def flush(self):
        self.calls.append(("flush",))


@pytest.fixture
def writer(monkeypatch):
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = RecordingWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(tensorboard, "require_tensorboard", lambda: None)
    monkeypatch.setattr("training.flags.checks.require_tensorboard", lambda: None)
    return RecordingWriter


ENTRY = {
    "train_loss": 2.5,
    "train_lr": 1e-4,
    "test_coco_eval_bbox": [0.1, 0.2, 0.3, -1],
    "test_PQ_all": {"pq": 0.5, "n": 3},
    "ema_loss": 2,
    "test_class_error": None,
    "epoch": 4,
    "n_parameters": 7,
}


def test_numbers_of_the_log():
    assert dict(scalars_in(ENTRY)) == {
        "train/loss": 2.5,
        "train/lr": 1e-4,
        "test/bbox/AP": 0.1,
        "test/bbox/AP50": 0.2,
        "test/bbox/AP75": 0.3,
        "test/PQ_all/pq": 0.5,
        "test/PQ_all/n": 3.0,
        "ema/loss": 2.0,
    }


def test_an_epoch_with_its_figure(writer, tmp_path):
    Image.new("L", (30, 20)).save(tmp_path / "detections.png")
    log = TensorboardLog(tmp_path, first_epoch=4)
    log.write(ENTRY)
    calls = writer.last.calls
    assert calls[0] == ("open", str(tmp_path / "tensorboard"), 4)
    assert ("train/loss", 2.5, 4) in calls
    assert calls[-2:] == [("detections", (20, 30, 3), 4, "HWC"), ("flush",)]


def test_a_run_writes_each_epoch(writer, data, tmp_path):  # noqa: F811
    assert run(data, "--epochs", "2", "--tensorboard", "--output_dir", tmp_path) == 0
    losses = [call[2] for call in writer.last.calls if call[0] == "train/loss"]
    assert losses == [0, 1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output_dir", "out"], "pip install tensorboard"),
        (["--output_dir", ""], "--tensorboard requires --output_dir"),
        (["--eval", "--resume", "x.pth"], "omit it with --eval"),
    ],
)
def test_mistakes_are_one_line(flags, message, data, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    is_missing = "pip" in message
    found = importlib.util.find_spec
    monkeypatch.setattr(
        tensorboard.importlib.util,
        "find_spec",
        lambda name: (None if is_missing else types) if name == "tensorboard" else found(name),
    )
    assert run(data, "--tensorboard", *flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1

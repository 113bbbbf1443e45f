"""Files that reach their folder whole, or not at all."""

import pytest

from export import weights
from export.weights import staged_files


def test_files_are_moved_at_the_end(tmp_path):
    with staged_files(tmp_path) as folder:
        (folder / "f.onnx").write_text("graph")
        (folder / "f.onnx.data").write_text("weights")
        assert not (tmp_path / "f.onnx").exists()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "f.onnx": "graph",
        "f.onnx.data": "weights",
    }


def test_weights_are_in_place_before_the_file_that_needs_them(tmp_path, monkeypatch):
    copied, real = [], weights.atomic_write

    def recorded(path):
        copied.append(path.name)
        return real(path)

    monkeypatch.setattr(weights, "atomic_write", recorded)
    with staged_files(tmp_path) as folder:
        for name in ("f.onnx", "f.onnx.data"):
            (folder / name).write_text(name)
    assert copied == ["f.onnx.data", "f.onnx"]


def test_a_failure_leaves_the_folder_as_it_was(tmp_path):
    (tmp_path / "f").write_text("old")
    with pytest.raises(ValueError, match="reason"), staged_files(tmp_path) as folder:
        (folder / "f").write_text("new")
        raise ValueError("reason")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_new_folder_exists_only_after_success(tmp_path):
    with pytest.raises(ValueError, match="reason"), staged_files(tmp_path / "new"):
        raise ValueError("reason")
    assert not list(tmp_path.iterdir())
    with staged_files(tmp_path / "new") as folder:
        (folder / "f").write_text("new")
    assert (tmp_path / "new" / "f").read_text() == "new"

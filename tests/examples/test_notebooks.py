"""The notebooks run from the first cell to the last, on little data and without a download."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from datasets.shapes.directory import write_shapes

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "examples/notebooks").glob("*.ipynb"))


def cells_of(path, kind):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def run_cells(path, monkeypatch):
    """Execute the code cells in one namespace, as a kernel does."""
    monkeypatch.chdir(path.parent)
    namespace = {"__name__": "__main__"}
    for number, source in enumerate(cells_of(path, "code")):
        exec(compile(source, f"{path.name}, cell {number}", "exec"), namespace)
    return namespace


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.slow
def test_attention(tmp_path, monkeypatch):
    photo = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photo)
    monkeypatch.setenv("DETR_PHOTO", str(photo))
    monkeypatch.setenv("DETR_RANDOM_WEIGHTS", "1")
    monkeypatch.setattr(plt, "show", plt.close)
    found = run_cells(ROOT / "examples/notebooks/attention.ipynb", monkeypatch)
    heads, queries, height, width = found["maps"].decoder_heads.shape
    assert (heads, queries) == (8, 100) and height * width > 100
    np.testing.assert_allclose(found["maps"].encoder.sum((2, 3)), 1, rtol=1e-4)


@pytest.mark.slow
def test_train_predict_report(tmp_path, monkeypatch):
    write_shapes(tmp_path / "data", num_train=32, num_val=4, image_size=64)
    small = f"--coco_path {tmp_path / 'data'} --epochs 1 --num_queries 10 --amp off"
    monkeypatch.setenv("DETR_FLAGS", small)
    monkeypatch.setenv("DETR_OUT", str(tmp_path / "out"))
    found = run_cells(ROOT / "examples/notebooks/train_predict_report.ipynb", monkeypatch)
    assert len(found["log"]) == 1
    assert found["photo"].parent.parent == tmp_path / "data"
    assert (tmp_path / "out" / "report.html").is_file()

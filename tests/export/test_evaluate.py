"""Box AP of ONNX files, against the evaluation of the same model in PyTorch."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.coco import make_coco_transforms
from export.evaluate import load, run
from models.postprocess import PostProcess
from tests.export.small_files import NORMALIZATION
from util.category_ids import category_id_of

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture
def data(onnx_export, tmp_path):
    """Images whose ground truth is what the model finds best in them."""
    model = onnx_export[0]
    images, annotations = [], []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (120, 200, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        transform = make_coco_transforms("val", [96], 160, normalization=NORMALIZATION)
        image = transform(Image.fromarray(pixels), None)[0]
        with torch.no_grad():
            (found,) = PostProcess()(model(image[None]), torch.tensor([[120, 200]]))
        best = found["scores"].argmax()
        left, top, right, bottom = found["boxes"][best].clamp(min=0).tolist()
        width, height = min(right, 200) - left, min(bottom, 120) - top
        images.append({"id": number, "file_name": f"{number}.png", "width": 200, "height": 120})
        box = {"bbox": [left, top, width, height], "area": width * height, "iscrowd": 0}
        label = {"category_id": int(found["labels"][best]), "image_id": number, "id": number + 1}
        annotations.append({**box, **label})
    categories = [{"id": i, "name": str(i)} for i in range(7)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "ann.json").write_text(json.dumps(content))
    return ["--images", str(tmp_path), "--annotations", str(tmp_path / "ann.json")]


def test_it_prints_size_ap_and_time(onnx_export, data, capsys):
    assert run([str(onnx_export[1]), *data, "--threads", "1"]) == 0
    head, line = capsys.readouterr().out.splitlines()[-2:]
    assert head.split() == ["file", "MiB", "AP", "AP50", "AP75", "ms"]
    name, size, ap, *_ = line.split()
    assert name == "small.onnx"
    assert float(size) == pytest.approx(onnx_export[1].stat().st_size / 2**20, abs=0.06)
    assert float(ap) > 0.9


def with_metadata(path, target, **changes):
    """A copy of an ONNX file with other metadata."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    model = onnx.load(path)
    metadata = {p.key: p.value for p in model.metadata_props}
    changed = {name: json.dumps(value) for name, value in changes.items()}
    onnx.helper.set_model_props(model, metadata | changed)
    onnx.save(model, target)
    return target


def test_category_ids_may_be_strings(onnx_export, tmp_path):
    own_ids = ["cell", 1, "2", 3, 4, 5, 6]
    names = {"cell": "a cell", "1": "one"}
    target = tmp_path / "strings.onnx"
    with_metadata(onnx_export[1], target, category_ids=own_ids, categories=names)
    found = load(target, "onnxruntime", 1)
    assert found.category_ids == [category_id_of(own_id) for own_id in own_ids]
    assert found.categories == {category_id_of("cell"): "a cell", 1: "one"}


def test_other_category_ids_are_reported(onnx_export, data, tmp_path, capsys):
    content = json.loads((tmp_path / "ann.json").read_text())
    content["categories"][3]["name"] = "dog"
    (tmp_path / "ann.json").write_text(json.dumps(content))
    target = with_metadata(onnx_export[1], tmp_path / "cat.onnx", categories={"3": "cat"})
    assert run([str(target), *data, "--threads", "1"]) == 0
    assert "id 3: in the model 'cat', in the file 'dog'" in capsys.readouterr().out


def test_mistakes_end_in_one_line(onnx_export, data, tmp_path, capsys):
    (tmp_path / "text.onnx").write_text("text")
    for argv, words in (
        ([str(tmp_path / "none.onnx"), *data], "none.onnx: the file does not exist"),
        ([str(tmp_path / "text.onnx"), *data], "text.onnx: is not a file of export.onnx"),
        ([str(onnx_export[1]), *data, "--precision", "f32"], "is only used with --runtime"),
    ):
        assert run(argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


@pytest.mark.slow
def test_files_that_were_exported_end_to_end_are_refused(end_to_end_export, data, capsys):
    assert run([str(end_to_end_export[1]), *data]) == 2
    assert "export it without --raw and --end_to_end" in capsys.readouterr().err

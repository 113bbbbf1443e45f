"""The sample client: the same detections as the model in PyTorch, alone or in a batch."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.coco import make_coco_transforms
from datasets.loading.images import read_upright
from export.loaded_model import LoadedModel
from models.postprocess import PostProcess
from tests.datasets.photo_cases import ORIENTATIONS, upright_image, write_photo
from tests.export.small_files import NORMALIZATION
from util.nested_tensor import NestedTensor, nested_tensor_from_tensor_list

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

CLIENT = Path(__file__).resolve().parents[2] / "examples" / "onnx_client.py"


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    sizes = {"wide": (120, 250, 3), "tall": (200, 90, 3)}
    for name, shape in sizes.items():
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(tmp_path / f"{name}.png")
    return [str(tmp_path / f"{name}.png") for name in sizes]


def test_it_detects_what_the_model_does(onnx_export, pictures, tmp_path):
    model, path = onnx_export
    command = [sys.executable, str(CLIENT), str(path), *pictures]
    command += ["--threshold", "1e-6", "--output", str(tmp_path / "drawn")]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    transform = make_coco_transforms("val", [96, 64], 160, normalization=NORMALIZATION)
    originals = [Image.open(picture) for picture in pictures]
    batch = nested_tensor_from_tensor_list([transform(image, None)[0] for image in originals])
    sizes = torch.tensor([(image.height, image.width) for image in originals])
    with torch.no_grad():
        expected = PostProcess()(model(batch), sizes)
    for picture, line, image in zip(pictures, found, expected, strict=True):
        assert line["image"] == picture and len(line["detections"]) == 5
        order = image["scores"].argsort(descending=True)
        for detection, query in zip(line["detections"], order, strict=True):
            assert detection["score"] == pytest.approx(float(image["scores"][query]), abs=2e-3)
            assert detection["box_xyxy"] == pytest.approx(image["boxes"][query].tolist(), abs=0.5)
            names = {1: "cat", 3: "dog"}
            assert detection["name"] == names.get(detection["label"], str(detection["label"]))
    for name, image in zip(("0_wide.png", "1_tall.png"), originals, strict=True):
        drawn = Image.open(tmp_path / "drawn" / name)
        assert drawn.size == image.size and drawn.tobytes() != image.tobytes()


def test_the_default_threshold_is_read_from_the_file():
    default_threshold = runpy.run_path(str(CLIENT))["default_threshold"]
    for loss, expected in (("ce", 0.5), ("focal", 0.2)):
        loaded = LoadedModel(model=SimpleNamespace(cls_loss=loss), num_classes=2, categories={})
        assert loaded.threshold == expected
        architecture = {"cls_loss": loss}
        assert default_threshold({"architecture": architecture, "threshold": None}) == expected
        assert default_threshold({"architecture": architecture, "threshold": 0.3}) == 0.3
    assert default_threshold({"architecture": None, "threshold": None}) == 0.5


def test_masks_are_binary_at_the_size_of_the_original_image():
    object_masks = runpy.run_path(str(CLIENT))["object_masks"]
    logits = np.where(np.arange(8) < 4, 1, -1)[None, None].repeat(8, 1).astype(np.float32)
    (mask,) = object_masks(logits, np.zeros((32, 32), bool), (32, 32), (100, 60))
    assert mask.size == (100, 60) and set(np.unique(mask)) == {0, 255}


@pytest.mark.slow
def test_it_runs_files_for_8_bit_images_of_one_size(end_to_end_export, pictures, capsys):
    """The images are scaled to fit; boxes and scores are those of the model in PyTorch."""
    model, path = end_to_end_export
    main = runpy.run_path(str(CLIENT))["main"]
    main([str(path), *pictures, "--threshold", "1e-6"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for line, picture, size_wh in zip(lines, pictures, [(160, 76), (45, 100)], strict=True):
        image = Image.open(picture)
        scaled = image.resize(size_wh, Image.Resampling.BILINEAR)
        normalized, _ = make_coco_transforms("val", [min(size_wh)], 160)(scaled, None)
        images = torch.zeros(1, 3, 100, 160)
        mask = torch.ones(1, 100, 160, dtype=torch.bool)
        images[0, :, : size_wh[1], : size_wh[0]] = normalized
        mask[0, : size_wh[1], : size_wh[0]] = False
        with torch.no_grad():
            outputs = model(NestedTensor(images, mask))
        (expected,) = PostProcess()(outputs, torch.tensor([[image.height, image.width]]))
        order = expected["scores"].argsort(descending=True)
        for detection, query in zip(line["detections"], order, strict=True):
            assert detection["score"] == pytest.approx(float(expected["scores"][query]), abs=2e-3)
            left, top, right, bottom = expected["boxes"][query].tolist()
            assert detection["box_xyxy"] == pytest.approx(
                [max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)],
                abs=0.5,
            )


def change(path, target, **changes):
    """Write an ONNX file again with other metadata, or with its outputs renamed."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    model = onnx.load(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**metadata, **changes.get("metadata", {})})
    if changes.get("raw"):
        for node in model.graph.node:
            for i, name in enumerate(node.output):
                node.output[i] = "pred_logits" if name == "scores" else name
        model.graph.output[0].name = "pred_logits"
    onnx.save(model, target)
    return target


def test_metadata_of_other_tools_do_no_harm(onnx_export, tmp_path):
    other = change(onnx_export[1], tmp_path / "f.onnx", metadata={"onnx.infer": "a tool's own"})
    _, facts = runpy.run_path(str(CLIENT))["open_model"](str(other))
    assert facts["categories"] == {"1": "cat", "3": "dog"} and facts["max_size"] == 160


def test_labels_are_the_ids_of_the_user():
    detections = runpy.run_path(str(CLIENT))["detections"]
    outputs = {"scores": [[0.4, 0.9]], "labels": [[0, 1]], "boxes": np.zeros((1, 2, 4))}
    outputs = {name: np.array(value) for name, value in outputs.items()}
    for category_ids, labels in ((None, [1, 0]), ([700, "cell"], ["cell", 700])):
        found, _ = detections(outputs, 0, 0.1, category_ids)
        assert [one["label"] for one in found] == labels


def test_files_of_older_versions_have_no_category_ids(onnx_export, tmp_path):
    open_model = runpy.run_path(str(CLIENT))["open_model"]
    assert open_model(str(onnx_export[1]))[1]["category_ids"] == list(range(7))
    older = change(onnx_export[1], tmp_path / "f.onnx", metadata={"category_ids": "null"})
    assert open_model(str(older))[1]["category_ids"] is None


def test_mistakes_end_in_one_line(onnx_export, pictures, tmp_path, capsys):
    main = runpy.run_path(str(CLIENT))["main"]
    good = onnx_export[1]
    (tmp_path / "text.onnx").write_text("text")
    for model, image, words in (
        (tmp_path / "none.onnx", pictures[0], "none.onnx: the file does not exist"),
        (tmp_path / "text.onnx", pictures[0], "text.onnx: onnxruntime cannot read it"),
        (change(good, tmp_path / "raw.onnx", raw=True), pictures[0], "export it without --raw"),
        (change(good, tmp_path / "f.onnx", metadata={"max_size": ""}), pictures[0], "max_size"),
        (good, str(tmp_path / "none.jpg"), "none.jpg: cannot be read as an image"),
        (good, str(tmp_path / "text.onnx"), "text.onnx: cannot be read as an image"),
    ):
        with pytest.raises(SystemExit) as raised:
            main([str(model), image])
        (line,) = capsys.readouterr().err.splitlines()
        assert raised.value.code == 2 and words in line
    with pytest.raises(SystemExit):
        main([str(good), pictures[0], "--threshold", "30"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "--threshold 30: must be 0 to 1, 0.3 for 30 %" in line


def test_it_scales_as_training_does():
    scaled = runpy.run_path(str(CLIENT))["scaled"]
    for size_wh in [
        (640, 480),
        (480, 640),
        (500, 375),
        (1000, 100),
        (333, 333),
        (2000, 1501),
        (5000, 1),
    ]:
        image = Image.new("RGB", size_wh)
        expected = make_coco_transforms("val")(image, None)[0]
        assert scaled(image, 800, 1333).size == (expected.shape[2], expected.shape[1])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_photos_are_read_upright(tmp_path, orientation):
    write_photo(tmp_path / "photo.png", orientation)
    image = runpy.run_path(str(CLIENT))["read_image"](str(tmp_path / "photo.png"))
    assert image.tobytes() == upright_image().tobytes()


@pytest.mark.parametrize(("dtype", "most"), [("uint16", 4095), ("uint16", 65535), ("int32", 200)])
def test_deep_grey_images_are_read_as_in_training(tmp_path, dtype, most):
    values = np.linspace(0, most, 3000).reshape(50, 60).astype(dtype)
    Image.fromarray(values).save(tmp_path / "deep.tif")
    image = runpy.run_path(str(CLIENT))["read_image"](str(tmp_path / "deep.tif"))
    assert np.array_equal(image, read_upright(tmp_path / "deep.tif"))


def test_it_imports_nothing_of_this_project():
    lines = CLIENT.read_text(encoding="utf-8").splitlines()
    roots = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import", "from"))}
    assert roots - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "PIL"}

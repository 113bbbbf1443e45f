"""Export to ONNX, from the command line to detections in plain ONNX Runtime."""

import json

import pytest
import torch

from export.check import compare, padded_batches
from export.onnx import OPSET, load, run
from export.wrapper import ExportWrapper
from tests.export.small_files import NARROW_BOXES, write_checkpoint

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")


def test_the_file_computes_what_the_model_does_at_any_size(onnx_export):
    model, path = onnx_export
    wrapper, in_onnx_runtime = ExportWrapper(model).eval(), load(path)
    for batch in padded_batches([(96, 97), (98, 99), (101, 66), (33, 131), (20, 30)], [1, 3]):
        assert compare(wrapper, in_onnx_runtime, *batch).largest() < 1e-4


def test_images_of_padding_alone_fill_a_batch_of_fixed_size(onnx_export):
    wrapper, in_onnx_runtime = ExportWrapper(onnx_export[0]).eval(), load(onnx_export[1])
    images, padding_mask = next(padded_batches([(70, 133)], [3]))
    images[1:], padding_mask[1:] = 0, True
    assert compare(wrapper, in_onnx_runtime, images, padding_mask).largest() < 1e-4
    alone = in_onnx_runtime(images[:1], padding_mask[:1])
    for name, values in in_onnx_runtime(images, padding_mask).items():
        assert torch.allclose(values[:1], alone[name], atol=1e-4)


def test_the_file_says_what_goes_in_and_out(onnx_export):
    session = onnxruntime.InferenceSession(onnx_export[1], providers=["CPUExecutionProvider"])
    inputs = {entry.name: (entry.type, entry.shape) for entry in session.get_inputs()}
    assert inputs == {
        "images": ("tensor(float)", ["batch", 3, "height", "width"]),
        "padding_mask": ("tensor(bool)", ["batch", "height", "width"]),
    }
    outputs = {entry.name: entry.shape[:2] for entry in session.get_outputs()}
    assert outputs == {name: ["batch", 5] for name in ("scores", "labels", "boxes", "pred_masks")}
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["categories"]) == {"1": "cat", "3": "dog"}
    assert json.loads(metadata["threshold"]) == 0.5  # the file has no best-F1 threshold


def test_the_file_is_one_and_of_the_opset(onnx_export):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    onnx.checker.check_model(onnx_export[1], full_check=True)
    model = onnx.load(onnx_export[1], load_external_data=False)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": OPSET}
    assert not any(tensor.external_data for tensor in model.graph.initializer)


@pytest.mark.slow
def test_a_file_for_8_bit_images_of_one_size(end_to_end_export):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    path = end_to_end_export[1]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = {entry.name: (entry.type, entry.shape) for entry in session.get_inputs()}
    assert inputs == {
        "images": ("tensor(uint8)", ["batch", 3, 100, 160]),
        "sizes_hw": ("tensor(int64)", ["batch", 2]),
        "original_sizes_hw": ("tensor(int64)", ["batch", 2]),
    }
    outputs = {entry.name: entry.shape for entry in session.get_outputs()}
    assert outputs.pop("num_detections") == ["batch"]
    assert outputs.pop("pred_masks") == ["batch", 5, 25, 40]
    assert {name: shape[:2] for name, shape in outputs.items()} == {
        name: ["batch", 5] for name in ("scores", "labels", "boxes", "queries")
    }
    model = onnx.load(path, load_external_data=False)
    assert model.opset_import[0].version == 18
    assert sum(bool(tensor.external_data) for tensor in model.graph.initializer) > 20
    data = path.with_name("small.onnx.data")
    assert data.stat().st_size > 800_000
    assert sorted(file.name for file in path.parent.iterdir()) == [
        *("small.onnx", "small.onnx.data", "small.pth")
    ]


@pytest.mark.parametrize("argv", [["--opset", "17"], ["--opset", "23"], ["--dtype", "fp8"]])
def test_opsets_and_types_that_are_not_there(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        run(["--hub", "detr_resnet50", "--output", "f.onnx", *argv])
    assert caught.value.code == 2 and "invalid choice" in capsys.readouterr().err


@pytest.mark.slow
def test_raw_outputs_of_a_box_model(tmp_path):
    model = write_checkpoint(tmp_path / "small.pth", NARROW_BOXES)
    argv = ["--checkpoint", str(tmp_path / "small.pth"), "--output", str(tmp_path / "f.onnx")]
    argv += ["--fixed_size", "64x99"]  # to trace one size takes a third of the time
    assert run([*argv, "--check_batches", "1", "--raw"]) == 0
    batch = next(padded_batches([(64, 99)], [2]))
    wrapper = ExportWrapper(model, raw=True).eval()
    assert compare(wrapper, load(tmp_path / "f.onnx"), *batch).largest() < 1e-4


ALL_SIZES = ("480x640", "800x1066", "1333x800")


@pytest.mark.timeout(1800)  # the encoder of DC5 at 1333x800 takes minutes
@pytest.mark.parametrize(
    ("name", "sizes", "batches"),
    [
        # Backbone, dilation, depth and mask head of all the others.
        pytest.param("detr_resnet50_dc5_panoptic", ALL_SIZES[:1], (1,), marks=pytest.mark.slow),
        *(
            pytest.param(f"detr_resnet50{kind}", ALL_SIZES, (1, 3), marks=pytest.mark.full)
            for kind in ("", "_dc5", "_panoptic")
        ),
    ],
)
def test_hub_models_at_the_sizes_of_coco(name, sizes, batches, tmp_path, capsys):
    flags = ["--check_sizes", *sizes, "--check_batches", *map(str, batches)]
    assert run(["--hub", name, "--output", str(tmp_path / "f.onnx"), *flags]) == 0
    out = capsys.readouterr().out
    for size in sizes:
        for batch_size in batches:
            assert f"{size}, batch {batch_size}: scores" in out

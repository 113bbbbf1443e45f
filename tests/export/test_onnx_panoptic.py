"""The panoptic client: the maps of the post-processor in PyTorch."""

import io
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.coco import make_coco_transforms
from models.panoptic import PostProcessPanoptic
from tests.export.small_files import NORMALIZATION
from util.files.panoptic_png import decode_id_map

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def client(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield runpy.run_path(str(EXAMPLES / "onnx_panoptic.py"))
    sys.modules.pop("onnx_client", None)


@pytest.mark.parametrize("seed", range(20))
def test_maps_are_those_of_the_post_processor(client, seed):
    generator = torch.Generator().manual_seed(seed)
    num_queries = seed % 6
    logits = 9 * torch.randn(num_queries, 4, generator=generator)
    masks = 4 * torch.randn(num_queries, 7, 9, generator=generator)
    is_thing = {0: True, 1: False, 2: False}
    target_hw = (30, 40) if seed % 2 else (5, 6)
    (expected,) = PostProcessPanoptic(is_thing, threshold=0.5)(
        {"pred_logits": logits[None], "pred_masks": masks[None]},
        [(25, 30)],
        [target_hw],
        padded_size=(28, 36),
    )
    scores, labels = logits.softmax(-1).max(-1)
    kept = (labels != 3) & (scores > 0.5)
    enlarged = client["enlarged"](masks[kept].numpy(), (28, 36), (30, 25))
    segments, positions, areas = client["merge"](
        labels[kept].numpy(), enlarged, target_hw[::-1], is_thing.__getitem__
    )
    if len(positions):
        assert np.array_equal(segments, decode_id_map(io.BytesIO(expected["png_string"])))
    found = list(zip(labels[kept][positions].tolist(), areas.tolist(), strict=True))
    assert found == [(s["category_id"], s["area"]) for s in expected["segments_info"]]


def test_a_file_gives_the_segments_of_the_model(client, onnx_export, tmp_path, capsys):
    """Also with its map as a PNG file."""
    model, path = onnx_export
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    exported = onnx.load(path)
    metadata = {entry.key: entry.value for entry in exported.metadata_props}
    things = {"is_thing": '{"1": true, "3": false}', "segment_threshold": "0.2"}
    onnx.helper.set_model_props(exported, {**metadata, **things})
    onnx.save(exported, tmp_path / "panoptic.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (120, 250, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    client["main"](
        [str(tmp_path / "panoptic.onnx"), str(tmp_path / "photo.png"), "--output", str(tmp_path)]
    )
    line = json.loads(capsys.readouterr().out)

    transform = make_coco_transforms("val", [96], 160, normalization=NORMALIZATION)
    image = transform(Image.fromarray(pixels), None)[0]
    with torch.no_grad():
        outputs = model(image[None])
    # The score of the client is that of the best class other than no-object.
    outputs["pred_logits"][..., -1] = -100
    scores = model(image[None])["pred_logits"].softmax(-1)[..., :-1].amax(-1)
    keep = scores[0] > 0.2
    kept = {name: values[:, keep] for name, values in outputs.items()}
    process = PostProcessPanoptic({1: True, 3: False}, threshold=0.0)
    (expected,) = process(kept, [tuple(image.shape[1:])], [(120, 250)])
    assert len(line["segments"]) > 0
    for ours, theirs in zip(line["segments"], expected["segments_info"], strict=True):
        assert (ours["id"], ours["label"], ours["isthing"]) == (
            *(theirs["id"], theirs["category_id"], theirs["isthing"]),
        )
        assert ours["area"] == pytest.approx(theirs["area"], rel=0.01, abs=20)
    id_map = decode_id_map(io.BytesIO((tmp_path / "0_photo.png").read_bytes()))
    assert id_map.shape == (120, 250)
    for segment in line["segments"]:
        assert (id_map == segment["id"]).sum() == segment["area"]


def test_models_that_are_not_panoptic(client, onnx_export, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        client["main"]([str(onnx_export[1]), str(tmp_path / "photo.png")])
    assert caught.value.code == 2
    assert "is not a panoptic model" in capsys.readouterr().err

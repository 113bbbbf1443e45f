"""Panoptic maps in COCO's format."""

import json

import numpy as np

from prediction.outputs.json_files import PanopticFiles
from tests.prediction.outputs.output_cases import IMAGE, found, item
from util.files.panoptic_png import decode_id_map


def test_maps_and_segments_agree(tmp_path):
    categories = [{"id": 1, "name": "red patch", "isthing": 1}]
    output = PanopticFiles(tmp_path, categories)
    prediction = found(panoptic=True)
    output.add(item("sub/a.jpg", 5), IMAGE, prediction)
    output.close()
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert content["categories"] == categories
    (row,) = content["annotations"]
    assert row["image_id"] == 5 and row["file_name"] == "sub/a.jpg.png"
    id_map = decode_id_map(tmp_path / "panoptic" / row["file_name"])
    assert (id_map == prediction.segment_map).all()
    assert {s["id"] for s in row["segments_info"]} == set(np.unique(id_map).tolist()) == {1, 2}

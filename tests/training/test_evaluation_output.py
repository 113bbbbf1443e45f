"""Figures of panoptic predictions show images as training reads them."""

import json

from PIL import Image

from datasets.coco_panoptic import CocoPanoptic
from tests.datasets.panoptic_cases import HEIGHT, WIDTH, id_map_of, segments_of, write_panoptic
from tests.datasets.photo_cases import write_photo
from training.evaluation_output import panoptic_samples
from util.files.panoptic_png import encode_id_map


def test_photos_stored_sideways_are_drawn_upright(tmp_path):
    write_panoptic(tmp_path)
    upright = Image.radial_gradient("L").resize((WIDTH, HEIGHT)).convert("RGB")
    write_photo(tmp_path / "val2017" / "10.png", 6, upright)
    folders = tmp_path / "val2017", tmp_path / "panoptic_val2017"
    dataset = CocoPanoptic(*folders, tmp_path / "annotations" / "panoptic_val2017.json")
    found = tmp_path / "found"
    found.mkdir()
    (found / "10.png").write_bytes(encode_id_map(id_map_of(10)))
    row = {"image_id": 10, "file_name": "10.png", "segments_info": segments_of(10)}
    (found / "predictions.json").write_text(json.dumps({"annotations": [row]}))
    (sample,) = panoptic_samples(dataset, found)
    assert sample.read_image().tobytes() == upright.tobytes()

"""detections.json: per image with names, and as COCO results."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from prediction.outputs.json_files import CocoJson, NamesJson
from tests.prediction.outputs.output_cases import IMAGE, boxes_of, found, item

CATEGORIES = [{"id": 1, "name": "red patch"}, {"id": 2, "name": "other"}]


def test_names_per_image(tmp_path):
    failures = []
    output = NamesJson(tmp_path, {"threshold": 0.1}, True, failures)
    output.add(item(), IMAGE, found())
    output.add(item("v.mp4/000003.jpg", frame=3, seconds=0.12345), IMAGE, boxes_of())
    failures.append(("b.jpg", "is empty"))
    output.close()
    content = json.loads((tmp_path / "detections.json").read_text())
    assert list(content) == ["threshold", "images", "failed"]
    first, second = content["images"]
    assert first["file"] == "photos/a.jpg" and first["picture"] == "pictures/a.jpg"
    assert (first["width"], first["height"]) == IMAGE.size
    patch = first["detections"][0]
    assert (patch["name"], patch["category_id"], patch["score"]) == ("red patch", 1, 0.9)
    np.testing.assert_allclose(patch["box_xyxy"], [6, 4, 18, 12], atol=1)
    assert second["detections"] == [] and (second["frame"], second["seconds"]) == (3, 0.123)
    assert content["failed"] == [{"file": "b.jpg", "error": "is empty"}]


def test_masks_and_segments_are_named_too(tmp_path):
    output = NamesJson(tmp_path, {}, False, [])
    output.add(item(), IMAGE, found(panoptic=True))
    output.close()
    (image,) = json.loads((tmp_path / "detections.json").read_text())["images"]
    mask = coco_mask.decode(image["detections"][0]["segmentation"])
    assert mask.shape == IMAGE.size[::-1] and mask[8, 10] and not mask[0, 0]
    assert image["panoptic"] == "panoptic/a.jpg.png" and "picture" not in image
    assert [segment["name"] for segment in image["segments"]] == ["red patch", "other"]


def test_coco_results_and_their_images_load_in_pycocotools(tmp_path):
    output = CocoJson(tmp_path, CATEGORIES, with_images=True)
    output.add(item(number=1), IMAGE, boxes_of((1, 2, 4, 8)))
    output.add(item("v.mp4/000003.jpg", 2, frame=3, seconds=0.1), IMAGE, boxes_of())
    output.close()
    truth = COCO(tmp_path / "images.json")
    assert [row["file_name"] for row in truth.imgs.values()] == [
        "photos/a.jpg",
        "photos/v.mp4/000003.jpg/000003",
    ]
    (result,) = truth.loadRes(str(tmp_path / "detections.json")).anns.values()
    assert result["bbox"] == [1, 2, 3, 6] and result["image_id"] == 1
    assert result["score"] == pytest.approx(0.9)


def test_coco_results_alone(tmp_path):
    output = CocoJson(tmp_path, CATEGORIES, with_images=False)
    output.add(item(number=77), IMAGE, found(masks=True))
    output.close()
    assert not (tmp_path / "images.json").exists()
    patch, other = json.loads((tmp_path / "detections.json").read_text())
    assert patch["image_id"] == other["image_id"] == 77
    assert coco_mask.area(patch["segmentation"]) == pytest.approx(96, rel=0.2)

"""Annotations of an image as target tensors, without a dataset."""

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from datasets.loading.target_tensors import ConvertCocoPolysToMask, convert_coco_poly_to_mask

OBJECT = {"category_id": 3, "bbox": [10, 20, 30, 15], "area": 450}


def test_keypoints_come_along_and_missing_ones_are_not_labelled():
    annotations = [
        {**OBJECT, "keypoints": [11, 21, 2, 12, 22, 1]},
        OBJECT,
        {**OBJECT, "keypoints": [1, 2, 2], "iscrowd": 1},
        {**OBJECT, "keypoints": [3, 4, 2], "bbox": [0, 0, 0, 0]},
    ]
    convert = ConvertCocoPolysToMask()
    picture = Image.new("RGB", (80, 60))
    _, target = convert(picture, {"image_id": 1, "annotations": annotations})
    assert target["keypoints"].tolist() == [[[11, 21, 2], [12, 22, 1]], [[0, 0, 0], [0, 0, 0]]]
    _, target = convert(picture, {"image_id": 1, "annotations": annotations[3:]})
    assert target["keypoints"].shape == (0, 1, 3)


def test_masks_equal_a_slow_union_of_polygons():
    polygons = [[5, 6, 25, 6, 25, 16], [20, 20, 30, 20, 30, 30.5]]
    bitmap = np.zeros((40, 60), dtype=np.uint8, order="F")
    bitmap[3:9, 4:20] = 1
    compressed = coco_mask.encode(bitmap)
    runs = np.flatnonzero(np.diff(np.pad(bitmap.flatten("F"), 1))).tolist()
    edges = [0, *runs, bitmap.size]
    plain = {"counts": np.diff(edges).tolist(), "size": [40, 60]}
    masks = convert_coco_poly_to_mask([polygons, compressed, plain, polygons[:1]], 40, 60)
    union = np.zeros((40, 60), dtype=bool)
    for polygon in polygons:
        union |= coco_mask.decode(coco_mask.frPyObjects([polygon], 40, 60))[..., 0] > 0
    assert masks.dtype == torch.uint8
    assert torch.equal(masks[0].bool(), torch.from_numpy(union))
    assert torch.equal(masks[1], torch.from_numpy(bitmap))
    assert torch.equal(masks[2], masks[1])
    assert 0 < masks[3].sum() < masks[0].sum()
    assert convert_coco_poly_to_mask([], 4, 6).shape == (0, 4, 6)


@pytest.mark.parametrize(
    "segmentation", [None, [], [[1, 2, 3, 4]], {"counts": [24], "size": [6, 4]}]
)
def test_masks_refuse_what_they_cannot_draw(segmentation):
    with pytest.raises(ValueError, match=r"polygon|size \[6, 4\]"):
        convert_coco_poly_to_mask([segmentation], 4, 6)

import numpy as np
import pytest
import torch
from pycocotools import mask as rle_tools

from datasets.evaluation.image_detections import (
    collect_detections,
    convert_to_xywh,
    extent_of,
    no_detections,
    result_entries,
)
from tests.datasets.coco_cases import prediction

BOX = (10, 10, 50, 50)


def entries_of(fields, iou_type):
    return result_entries(1, collect_detections(1, fields, [iou_type]), iou_type)


def test_xywh_keeps_type_and_units():
    boxes = torch.tensor([[1.0, 2.0, 4.0, 8.0]], dtype=torch.float64)
    assert torch.equal(convert_to_xywh(boxes), boxes.new_tensor([[1, 2, 3, 6]]))
    assert convert_to_xywh(torch.zeros(0, 4)).shape == (0, 4)


def test_an_entry_has_what_coco_wants():
    (entry,) = entries_of(prediction([BOX], labels=[7], scores=[0.25]), "bbox")
    assert entry == {"image_id": 1, "category_id": 7, "bbox": [10, 10, 50, 50], "score": 0.25}
    assert {type(entry[name]) for name in ("category_id", "score")} == {int, float}


def test_masks_become_rle_that_decodes_to_them():
    masks = torch.rand(3, 1, 20, 30, generator=torch.Generator().manual_seed(0))
    entries = entries_of({**prediction([BOX] * 3), "masks": masks}, "segm")
    for entry, mask in zip(entries, masks, strict=True):
        assert isinstance(entry["segmentation"]["counts"], str)
        assert np.array_equal(rle_tools.decode(entry["segmentation"]), (mask[0] > 0.5).numpy())


def test_masks_may_come_without_the_channel():
    masks = torch.zeros(2, 1, 20, 30, dtype=torch.uint8)
    masks[0, 0, 3:9, 4:20] = 1
    fields = prediction([BOX] * 2)
    with_channel = entries_of({**fields, "masks": masks}, "segm")
    assert entries_of({**fields, "masks": masks[:, 0]}, "segm") == with_channel


def test_keypoints_become_a_flat_list():
    keypoints = torch.arange(2 * 17 * 3.0).reshape(2, 17, 3)
    entries = entries_of({**prediction([BOX] * 2), "keypoints": keypoints}, "keypoints")
    assert entries[1]["keypoints"] == keypoints[1].flatten().tolist()


def test_half_precision_is_read_without_loss():
    fields = prediction([BOX])
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in fields.items()}
    (entry,) = entries_of(half, "bbox")
    assert entry["score"] == half["scores"].item() != fields["scores"].item()


@pytest.mark.parametrize("iou_type", ["bbox", "segm", "keypoints"])
def test_nothing_found_gives_no_entries(iou_type):
    assert result_entries(1, no_detections(), iou_type) == entries_of({}, iou_type) == []


@pytest.mark.parametrize(
    ("entry", "extent"),
    [
        ({"bbox": [3, 4, 5, 6]}, {"area": 30}),
        ({"keypoints": [1, 5, 2, 4, 7, 2, 3, 6, 2]}, {"bbox": [1, 5, 3, 2], "area": 6}),
    ],
)
def test_extents_worked_out_by_hand(entry, extent):
    assert extent_of(entry) == extent


def test_the_extent_of_a_mask_is_its_area():
    masks = torch.zeros(1, 1, 20, 30)
    masks[..., 3:9, 4:20] = 1
    (entry,) = entries_of({**prediction([BOX]), "masks": masks}, "segm")
    assert extent_of(entry) == {"area": 6 * 16}


def test_a_missing_field():
    with pytest.raises(ValueError, match="image 1: expected scores, labels, masks, missing masks"):
        collect_detections(1, prediction([BOX]), ["segm"])


def test_fields_of_different_length():
    fields = {**prediction([BOX]), "labels": torch.tensor([1, 2])}
    with pytest.raises(ValueError, match="'scores': 1, 'labels': 2, 'boxes': 1"):
        collect_detections(1, fields, ["bbox"])


def test_shapes_that_were_not_collected():
    with pytest.raises(ValueError, match="does not collect detections for IoU type 'segm'"):
        result_entries(1, collect_detections(1, prediction([BOX]), ["bbox"]), "segm")

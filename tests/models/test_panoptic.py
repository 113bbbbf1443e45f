"""Masks and panoptic maps at the size of the original image."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.panoptic import PostProcessPanoptic, PostProcessSegm, coco_is_thing
from util.files.panoptic_png import decode_id_map

NO_OBJECT = 7
THINGS = {label: label < 4 for label in range(NO_OBJECT)}


def outputs_of(labels, masks, sure=9.0):
    """Outputs for one image: confident labels, with these mask logits."""
    logits = torch.zeros(1, len(labels), NO_OBJECT + 1)
    for query, label in enumerate(labels):
        logits[0, query, label] = sure
    return {"pred_logits": logits, "pred_masks": torch.as_tensor(masks).float()[None]}


def rectangles(size_hw, *boxes, inside=6.0, outside=-6.0):
    """A mask for each (top, bottom, left, right)."""
    masks = torch.full((len(boxes), *size_hw), outside)
    for mask, (top, bottom, left, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = inside
    return masks


def panoptic(outputs, size_hw, target_hw=None, **options):
    """The single map as (ids, segments)."""
    targets = None if target_hw is None else [target_hw]
    (result,) = PostProcessPanoptic(THINGS, **options)(outputs, [size_hw], targets)
    return decode_id_map(io.BytesIO(result["png_string"])), result["segments_info"]


# ---- instance masks


def plain_masks(logits, padded_hw, size_hw, orig_hw, threshold):
    """One query after the other, through floats."""
    resized = F.interpolate(logits[None, None], size=padded_hw, mode="bilinear")
    inside = (resized.sigmoid() > threshold)[..., : size_hw[0], : size_hw[1]]
    return F.interpolate(inside.float(), size=orig_hw, mode="nearest")[0].byte()


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_instance_masks_are_thresholded_before_they_are_resized(threshold):
    torch.manual_seed(0)
    masks = 3 * torch.randn(2, 20, 6, 7)  # more queries than are enlarged at once
    sizes, originals = torch.tensor([[20, 28], [24, 13]]), torch.tensor([[33, 47], [11, 9]])
    results = [{"scores": torch.zeros(20)}, {"scores": torch.ones(20)}]
    out = PostProcessSegm(threshold)(results, {"pred_masks": masks}, originals, sizes)
    for image, result in enumerate(out):
        assert result["masks"].dtype == torch.uint8 and result.keys() == {"scores", "masks"}
        for query, mask in enumerate(result["masks"]):
            expected = plain_masks(
                masks[image, query],
                *((24, 28), sizes[image].tolist(), originals[image].tolist(), threshold),
            )
            assert torch.equal(mask, expected)


def test_instance_masks_without_queries():
    sizes = torch.tensor([[8, 8]])
    (result,) = PostProcessSegm()([{}], {"pred_masks": torch.zeros(1, 0, 4, 4)}, sizes, sizes)
    assert result["masks"].shape == (0, 1, 8, 8)


def test_as_many_sizes_as_images_are_needed():
    sizes = torch.tensor([[8, 8], [8, 8]])
    with pytest.raises(ValueError, match=r"one entry per image, got \(1, 1, 2, 2\)"):
        PostProcessSegm()([{}], {"pred_masks": torch.zeros(1, 2, 4, 4)}, sizes, sizes)
    with pytest.raises(ValueError, match="one size per image for 1 images"):
        PostProcessPanoptic(THINGS)(outputs_of([1], torch.zeros(1, 4, 4)), [(8, 8)], [])


# ---- panoptic maps


def test_every_pixel_belongs_to_the_strongest_query():
    masks = rectangles((8, 12), (0, 8, 0, 5), (0, 8, 5, 12))
    ids, segments = panoptic(outputs_of([2, 5], masks), (8, 12))
    assert (ids[:, :5] == 0).all() and (ids[:, 5:] == 1).all()
    assert segments == [
        {"id": 0, "isthing": True, "category_id": 2, "area": 40},
        {"id": 1, "isthing": False, "category_id": 5, "area": 56},
    ]


def test_unsure_queries_and_no_object_are_left_out():
    masks = rectangles((8, 8), (0, 8, 0, 8), (0, 8, 0, 8), (0, 8, 0, 8))
    outputs = outputs_of([1, NO_OBJECT, 2], masks)
    outputs["pred_logits"][0, 0, 1] = 2
    _, segments = panoptic(outputs, (8, 8))
    assert [segment["category_id"] for segment in segments] == [2]
    _, segments = panoptic(outputs, (8, 8), threshold=0.1)
    assert [segment["category_id"] for segment in segments] == [1]  # first of equals wins


def test_stuff_of_a_class_is_one_segment_and_things_are_not():
    masks = rectangles((8, 12), (0, 8, 0, 3), (0, 8, 3, 6), (0, 8, 6, 9), (0, 8, 9, 12))
    _, segments = panoptic(outputs_of([5, 1, 5, 1], masks), (8, 12))
    # The merged query owns no pixel and is dropped; what it covered then goes to the strongest of
    # the rest, here the first of equals.
    assert [(s["category_id"], s["area"]) for s in segments] == [(5, 48), (1, 24), (1, 24)]


def test_small_segments_are_dropped_until_there_is_none():
    masks = rectangles((16, 16), (0, 16, 0, 16), (0, 2, 0, 2), (5, 6, 5, 10), inside=3.0)
    masks[1:][masks[1:] > 0] = 6
    ids, segments = panoptic(outputs_of([4, 1, 2], masks), (16, 16))
    assert [s["category_id"] for s in segments] == [4, 2] and segments[1]["area"] == 5
    assert ids[0, 0] == 0


def test_the_map_is_resized_to_the_original_image():
    masks = rectangles((6, 8), (0, 6, 0, 4), (0, 6, 4, 8))
    ids, segments = panoptic(outputs_of([1, 5], masks), (24, 32), target_hw=(15, 40))
    assert ids.shape == (15, 40) and sum(s["area"] for s in segments) == 600


def test_an_image_without_segments():
    ids, segments = panoptic(outputs_of([NO_OBJECT], torch.zeros(1, 4, 4)), (9, 7))
    assert segments == [] and ids.shape == (9, 7) and not ids.any()


def test_sizes_may_be_tensors():
    outputs = outputs_of([1, 5], rectangles((6, 8), (0, 6, 0, 4), (0, 6, 4, 8)))
    postprocess = PostProcessPanoptic(THINGS)
    sizes, targets = torch.tensor([[24, 32]]), torch.tensor([[15, 40]])
    assert postprocess(outputs, sizes, targets) == postprocess(outputs, [(24, 32)], [(15, 40)])


def test_scores_on_request():
    outputs = outputs_of([1], rectangles((4, 4), (0, 4, 0, 4)))
    _, segments = panoptic(outputs, (4, 4), return_scores=True)
    score = float(outputs["pred_logits"].softmax(-1).max())
    assert segments[0]["score"] == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("things", [coco_is_thing(250), coco_is_thing(201), {}])
def test_any_of_250_classes_may_be_predicted(things):
    labels = torch.arange(250)
    logits = torch.zeros(250, 1, 251).scatter_(2, labels.view(-1, 1, 1), 20.0)
    outputs = {"pred_logits": logits, "pred_masks": torch.ones(250, 1, 2, 2)}
    results = PostProcessPanoptic(things)(outputs, [(4, 4)] * 250)
    found = [result["segments_info"][0] for result in results]
    assert [segment["category_id"] for segment in found] == labels.tolist()
    if things:
        assert [segment["isthing"] for segment in found] == [i <= 90 for i in range(250)]


def test_ids_are_plain_numbers():
    _, segments = panoptic(outputs_of([1], rectangles((4, 4), (0, 4, 0, 4))), (4, 4))
    assert [type(v) for v in segments[0].values()] == [int, bool, int, int]
    assert not isinstance(segments[0]["area"], np.integer)


def test_segments_have_category_ids():
    """Two queries of the stuff in row 0 become one segment; row 1 is a thing."""
    post = PostProcessPanoptic({500: True, 400: False}, 0.5, category_ids=[400, 500])
    logits = torch.tensor([[[9.0, 0, 0], [9, 0, 0], [0, 9, 0]]])
    masks = torch.full((1, 3, 6, 6), -9.0)
    masks[0, 0, :2], masks[0, 1, 2:4], masks[0, 2, 4:] = 9, 9, 9
    (result,) = post({"pred_logits": logits, "pred_masks": masks}, [(6, 6)])
    found = [(one["category_id"], one["isthing"]) for one in result["segments_info"]]
    assert found == [(400, False), (500, True)]

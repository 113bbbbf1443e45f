"""From outputs to detections."""

import pytest
import torch

from models.panoptic import PostProcessPanoptic, PostProcessSegm
from models.postprocess import PostProcess


def test_every_query_with_its_best_object_class_in_pixels():
    logits = torch.tensor([[[1.0, 3.0, 9.0], [2.0, 0.0, -9.0]]])  # the last class is "no object"
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.25, 0.5, 0.5, 1.0]]])
    (result,) = PostProcess()(
        {"pred_logits": logits, "pred_boxes": boxes}, torch.tensor([[10, 20]])
    )
    assert result["labels"].tolist() == [1, 0]
    assert result["scores"].tolist() == pytest.approx(
        [float(logits.softmax(-1)[0, 0, 1]), float(logits.softmax(-1)[0, 1, 0])]
    )
    assert torch.allclose(result["boxes"], torch.tensor([[8.0, 3, 12, 7], [0.0, 0, 10, 10]]))


@pytest.mark.parametrize("sizes", [torch.zeros(1, 2), torch.zeros(2, 3)])
def test_sizes_that_do_not_fit(sizes):
    outputs = {"pred_logits": torch.zeros(2, 3, 4), "pred_boxes": torch.zeros(2, 3, 4)}
    with pytest.raises(ValueError, match="target_sizes"):
        PostProcess()(outputs, sizes)


def test_labels_are_category_ids():
    post = PostProcess([70, "8", 3])
    assert not post.state_dict()
    outputs = {"pred_logits": torch.eye(4)[None] * 9, "pred_boxes": torch.zeros(1, 4, 4)}
    (result,) = post(outputs, torch.tensor([[10, 20]]))
    assert result["labels"].tolist()[:3] == [70, 8, 3]


LOGITS = torch.tensor([[[1.0, 3.0, 9.0], [2.0, 0.0, -9.0], [-3.0, 2.5, 0.0]]])
BOXES = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 1.0, 1.0]]])


def test_focal_scores_are_the_best_of_all_queries_and_classes():
    outputs = {"pred_logits": LOGITS, "pred_boxes": BOXES}
    (result,) = PostProcess([5, 8], "focal")(outputs, torch.tensor([[10, 20]]))
    assert result["queries"].tolist() == [0, 2, 1] and result["labels"].tolist() == [8, 8, 5]
    assert torch.allclose(result["scores"], torch.tensor([3.0, 2.5, 2.0]).sigmoid())
    (per_query,) = PostProcess([5, 8], "focal", one_per_query=True)(
        outputs, torch.tensor([[10, 20]])
    )
    assert torch.equal(result["boxes"], per_query["boxes"][result["queries"]])
    assert per_query["labels"].tolist() == [8, 5, 8] and "queries" not in per_query


def test_a_query_can_be_detected_with_two_classes():
    logits = torch.tensor([[[5.0, 4.0, 0.0], [-5.0, -4.0, 0.0]]])
    outputs = {"pred_logits": logits, "pred_boxes": BOXES[:, :2]}
    (result,) = PostProcess(cls_loss="focal")(outputs, torch.tensor([[10, 20]]))
    assert result["queries"].tolist() == [0, 0] and result["labels"].tolist() == [0, 1]


def test_masks_follow_the_queries_of_detections():
    masks = torch.full((1, 3, 4, 4), -1.0)
    masks[0, 1] = 1
    outputs = {"pred_logits": LOGITS, "pred_boxes": BOXES, "pred_masks": masks}
    sizes = torch.tensor([[16, 16]])
    results = PostProcess(cls_loss="focal")(outputs, sizes)
    (result,) = PostProcessSegm()(results, outputs, sizes, sizes)
    inside = result["masks"].flatten(1).float().mean(1)
    assert inside.tolist() == [float(query == 1) for query in result["queries"]]


def test_panoptic_scores_of_the_focal_loss():
    post = PostProcessPanoptic({0: True, 1: True}, threshold=0.9, cls_loss="focal")
    keep, scores, labels = post._select(LOGITS[0])
    assert keep.tolist() == [True, False, True] and labels.tolist() == [1, 0, 1]
    assert torch.allclose(scores, torch.tensor([3.0, 2.0, 2.5]).sigmoid())

"""From outputs to detections."""

import pytest
import torch

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

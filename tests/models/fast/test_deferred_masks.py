"""Deferred masks: equal to computing all masks, and never mistaken for a tensor."""

import copy
import operator
import pickle

import pytest
import torch
from torch import nn

from benchmarks.original.detector import forward_with_masks
from models.criterion import SetCriterion
from models.fast.deferred_masks import DeferredMasks, select_queries
from models.matcher import HungarianMatcher
from models.panoptic import PostProcessSegm
from tests.models.small_models import build_segmenter, images, targets_for

SIZES = [(64, 96), (70, 50)]


class Head(nn.Module):
    def masks(self, attention, maps, image):
        return attention.sum(1, keepdim=True) + maps[0][image]


def small_masks():
    generator = torch.Generator().manual_seed(0)
    attention = torch.randn(2, 3, 4, 5, 6, generator=generator)
    return DeferredMasks(Head(), attention, [torch.randn(2, 1, 5, 6, generator=generator)])


def test_dense_masks_equal_the_plain_way():
    model = build_segmenter(num_queries=20, dropout=0)
    masks = model(images(*SIZES))["pred_masks"].dense()
    expected = forward_with_masks(model, images(*SIZES))["pred_masks"]
    assert masks.shape == expected.shape
    assert torch.allclose(masks, expected, atol=1e-5)
    masks.sum().backward()
    assert model.mask_head.lay5.weight.grad.isfinite().all()


@pytest.mark.parametrize("indices", [[4, 0, 4], []])
def test_masks_of_queries_are_rows_of_the_dense_masks(indices):
    masks, indices = small_masks(), torch.tensor(indices, dtype=torch.long)
    expected = masks.dense().flatten(0, 1)[indices]
    assert expected.shape == (len(indices), 5, 6)
    assert torch.equal(masks.of_queries(indices), expected)
    assert torch.equal(select_queries(masks, indices), expected)
    assert torch.equal(select_queries(masks.dense(), indices), expected)


def test_the_precision_is_that_of_the_model():
    model = build_segmenter()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(images((64, 64)))
    assert outputs["pred_masks"].of_queries(torch.tensor([1])).dtype == torch.bfloat16
    criterion = SetCriterion(5, HungarianMatcher(1, 5, 2), {}, 0.1, ["masks"])
    losses = criterion(outputs, targets_for([(64, 64)], [1]))
    assert losses["loss_mask"].dtype == torch.float32


USES_AS_A_TENSOR = {
    "attribute": lambda masks: masks.shape,
    "method": lambda masks: masks.sigmoid(),
    "index": lambda masks: masks[0, 1],
    "iteration": lambda masks: list(masks),
    **{
        name: lambda masks, name=name: getattr(operator, name)(masks, 1)
        for name in ("gt", "ge", "lt", "le", "add", "sub", "mul", "truediv")
    },
    **{
        f"{name}, reversed": lambda masks, name=name: getattr(operator, name)(1, masks)
        for name in ("add", "sub", "mul")
    },
    "product with a tensor": lambda masks: torch.ones(2, 3, 5, 6) * masks,
    "negation": lambda masks: -masks,
    "function": torch.sigmoid,
    "functional": lambda masks: nn.functional.interpolate(masks, size=(5, 5)),
    "list of them": lambda masks: torch.stack([masks, masks]),
    "keyword": lambda masks: torch.sigmoid(input=masks),
}


@pytest.mark.parametrize("use", USES_AS_A_TENSOR.values(), ids=USES_AS_A_TENSOR)
def test_use_as_a_tensor_names_the_way_out(use):
    with pytest.raises((TypeError, AttributeError), match=r"call \.dense\(\) .* \.of_queries"):
        use(small_masks())


def test_the_post_processor_names_the_way_out_in_training():
    outputs = build_segmenter()(images((64, 64)))
    sizes = torch.tensor([[64, 64]])
    with pytest.raises((TypeError, AttributeError), match=r"call \.dense\(\)"):
        PostProcessSegm()([{}], outputs, sizes, sizes)


def test_outputs_can_be_copied_and_pickled():
    masks = small_masks()
    for other in (copy.copy(masks), copy.deepcopy(masks), pickle.loads(pickle.dumps(masks))):
        assert torch.equal(other.dense(), masks.dense())

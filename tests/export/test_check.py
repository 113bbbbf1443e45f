"""The comparison of an exported model with its origin: what it lets pass, and what not."""

import math

import pytest
import torch

from export.check import CheckFailedError, Differences, check, compare, padded_batches
from export.wrapper import ExportWrapper
from tests.export.small_files import BOXES, MASKS, build

SIZES_HW = ((64, 96), (70, 50))


@pytest.fixture(scope="module", params=[(BOXES, False), (MASKS, True), (MASKS, False)])
def wrapper(request):
    architecture, raw = request.param
    return ExportWrapper(build(architecture), raw).eval()


@pytest.fixture
def batch():
    return next(padded_batches([(64, 96)], [3]))


def changed(wrapper, **changes):
    """The wrapper with some outputs changed."""

    def run(images, padding_mask):
        outputs = wrapper(images, padding_mask)
        return outputs | {k: change(outputs[k]) for k, change in changes.items() if k in outputs}

    return run


def test_batches_have_padding_and_images_that_fill_them():
    batches = list(padded_batches(SIZES_HW, (1, 3)))
    assert [images.shape[0] for images, _ in batches] == [1, 3, 1, 3]
    for images, padding_mask in batches:
        assert padding_mask.dtype == torch.bool and padding_mask.shape == images[:, 0].shape
        assert padding_mask.flatten(1).any(1).all() and not padding_mask[:, 0, 0].any()
        assert not images.permute(0, 2, 3, 1)[padding_mask].any()
        assert not padding_mask.all(2).all(0).any(), "no row that no image reaches"


def test_the_model_itself_passes(wrapper, capsys):
    found = check(wrapper, wrapper, padded_batches(SIZES_HW, (1, 3)), tolerance=0)
    assert found.largest() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == [
        *("64x96, batch 1", "64x96, batch 3", "70x50, batch 1", "70x50, batch 3")
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda d: lambda images, mask: d(images, torch.zeros_like(mask)),
        lambda d: lambda images, mask: d(images.flip(1), mask),
        lambda d: lambda images, mask: {k: v.roll(1, 1) for k, v in d(images, mask).items()},
        lambda d: lambda images, mask: {k: v.roll(1, 0) for k, v in d(images, mask).items()},
    ],
    ids=["no padding mask", "other channels", "other queries", "other images"],
)
def test_a_wrong_model_does_not_pass(wrapper, wrong):
    with pytest.raises(CheckFailedError, match=r"64x96, batch 3 by more than 0\.001: scores"):
        check(wrapper, wrong(wrapper), padded_batches([(64, 96)], [3]), tolerance=1e-3)


@pytest.mark.parametrize(
    ("field", "outputs"),
    [("scores", ("scores", "pred_logits")), ("boxes", ("boxes", "pred_boxes"))],
)
def test_every_output_is_compared(wrapper, batch, field, outputs):
    wrong = changed(wrapper, **{name: lambda x: x + torch.rand_like(x) for name in outputs})
    differences = compare(wrapper, wrong, *batch)._asdict()
    assert differences.pop(field) > 0.01
    assert set(differences.values()) <= {0.0, None}


def test_masks_are_compared(batch):
    wrapper = ExportWrapper(build(MASKS)).eval()
    shifted = compare(wrapper, changed(wrapper, pred_masks=lambda x: x + 1), *batch)
    assert shifted.masks > 0.01 and (shifted.scores, shifted.boxes) == (0, 0)


def test_a_label_costs_what_its_class_is_less_probable(batch):
    wrapper = ExportWrapper(build(BOXES)).eval()
    swapped = compare(wrapper, changed(wrapper, labels=lambda x: (x + 1) % 7), *batch)
    assert swapped.scores > 0.01 and swapped.boxes == 0


@pytest.mark.parametrize("name", ["scores", "boxes", "pred_masks"])
def test_nan_does_not_pass(name):
    wrapper = ExportWrapper(build(MASKS)).eval()
    wrong = changed(wrapper, **{name: lambda x: x * math.nan})
    with pytest.raises(CheckFailedError, match="nan"):
        check(wrapper, wrong, padded_batches([(64, 96)], [1]), tolerance=1e9)


def test_outputs_that_are_missing_or_of_another_shape(batch):
    wrapper = ExportWrapper(build(BOXES)).eval()
    with pytest.raises(CheckFailedError, match=r"output boxes is \(3, 4, 4\), not \(3, 5, 4\)"):
        compare(wrapper, changed(wrapper, boxes=lambda x: x[:, 1:]), *batch)

    def without_labels(images, padding_mask):
        outputs = wrapper(images, padding_mask)
        return {name: value for name, value in outputs.items() if name != "labels"}

    with pytest.raises(CheckFailedError, match="output labels is missing"):
        compare(wrapper, without_labels, *batch)


def test_words():
    assert str(Differences(1e-5, 2e-6, None)) == "scores 1.0e-05, boxes 2.0e-06"
    assert str(Differences(0, 0, 0.5)).endswith("masks 5.0e-01")
    assert math.isnan(Differences(0.0, math.nan, 1.0).largest())

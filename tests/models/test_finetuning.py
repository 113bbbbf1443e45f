"""Fine-tuning: which weights are loaded, adapted or new."""

import pytest
import torch
from torch import nn

from models.finetuning import HeadClasses, finetune_model
from models.focal import use_focal_scores
from tests.util.tiny_detr import TinyDetr, TinySegmenter, same_weights
from util.errors import UserError


def test_finetuning_the_same_model_loads_everything():
    theirs, ours = TinyDetr(), TinyDetr()
    report = finetune_model(ours, theirs.state_dict())
    assert same_weights(ours, theirs)
    assert not (report.adapted or report.skipped or report.missing or report.unused)
    count = len(theirs.state_dict())
    assert str(report) == f"Fine-tuning: {count} of {count} tensors of the model loaded"


@pytest.mark.parametrize(
    ("theirs_count", "ours_count", "words"),
    [
        (7, 4, "the first 4 of 7 queries in the file"),
        (4, 7, "the 4 queries in the file, and 3 new ones"),
    ],
)
def test_finetuning_loads_the_common_queries(theirs_count, ours_count, words):
    theirs, ours = TinyDetr(queries=theirs_count), TinyDetr(queries=ours_count)
    fresh = ours.query_embed.weight.detach().clone()
    report = finetune_model(ours, theirs.state_dict())
    assert torch.equal(ours.query_embed.weight[:4], theirs.query_embed.weight[:4])
    assert torch.equal(ours.query_embed.weight[4:], fresh[4:])
    assert f"  adapted: query_embed.weight: {words}\n" in f"{report}\n"


def test_the_report_names_what_is_new_and_what_is_not_used():
    theirs, ours = TinyDetr(channels=6), TinyDetr()
    state = {"module." + key: value for key, value in theirs.state_dict().items()}
    del state["module.input_proj.bias"]
    state["module.unknown"] = torch.ones(1)
    words = str(finetune_model(ours, state))
    assert "not loaded (different shape): input_proj.weight is (8, 6, 1, 1) in the file" in words
    assert "not loaded (not in the file): input_proj.bias" in words
    assert "only in the file: unknown" in words


# ---- the classification head


def head_of(model):
    """Weights and biases (K, 9) of the rows."""
    weight, bias = model.class_embed.weight, model.class_embed.bias
    return torch.cat([weight, bias[:, None]], dim=1).detach().clone()


def finetune_head(ours, theirs, names=None, names_in_file=None):
    """The heads of the file, of the model before and after fine-tuning, and the report."""
    before = head_of(ours)
    classes = HeadClasses(names or {}, names_in_file or {})
    report = finetune_model(ours, theirs.state_dict(), classes)
    return head_of(theirs), before, head_of(ours), report


def test_rows_of_classes_with_the_same_name_are_loaded():
    names, names_in_file = {0: "Dog ", 1: "cow", 2: "cat"}, {3: "cat", 7: "dog", 8: "horse"}
    file, before, after, report = finetune_head(
        TinyDetr(classes=3), TinyDetr(classes=9), names, names_in_file
    )
    assert torch.equal(after, torch.stack([file[7], before[1], file[3], file[-1]]))
    told = (
        "  adapted: class_embed.weight, class_embed.bias: 10 rows in the file, 4 in the model; "
        "loaded: no-object and Dog , cat; new: cow"
    )
    assert told in str(report).splitlines()


def test_classes_at_other_rows_of_a_head_of_the_same_size():
    """Rows without a class, here 3, are loaded as well."""
    file, before, after, _ = finetune_head(
        TinyDetr(classes=4), TinyDetr(classes=4), {0: "a", 1: "b", 2: "c"}, {1: "a", 0: "b"}
    )
    assert torch.equal(after, torch.stack([file[1], file[0], before[2], file[3], file[4]]))


@pytest.mark.parametrize("names", [{}, {0: "a", 2: "c"}])
@pytest.mark.parametrize("names_in_file", [{}, {0: "a", 1: "b", 2: "c"}])
def test_a_head_for_the_same_classes_is_loaded_completely(names, names_in_file):
    file, _, after, report = finetune_head(TinyDetr(), TinyDetr(), names, names_in_file)
    assert torch.equal(after, file) and report.adapted == {}


def test_without_names_a_head_of_another_size_only_has_the_no_object_row_of_the_file():
    file, before, after, report = finetune_head(TinyDetr(classes=3), TinyDetr(classes=91))
    assert torch.equal(after, torch.cat([before[:3], file[-1:]]))
    assert report.adapted["class_embed.bias"].endswith("4 in the model; loaded: no-object")


def test_the_content_of_anchor_queries_has_rows_like_the_head():
    theirs, ours = TinyDetr(classes=9), TinyDetr(classes=3)
    theirs.content_embed, ours.content_embed = nn.Embedding(10, 8), nn.Embedding(4, 8)
    before = ours.content_embed.weight.detach().clone()
    classes = HeadClasses({0: "dog", 1: "cow", 2: "cat"}, {3: "cat", 7: "dog"})
    report = finetune_model(ours, theirs.state_dict(), classes)
    file, after = theirs.content_embed.weight, ours.content_embed.weight
    assert torch.equal(after, torch.stack([file[7], before[1], file[3], file[-1]]))
    assert "loaded: the shared initial content of the queries and dog, cat; new: cow" in str(report)


@pytest.mark.parametrize("to_focal", [True, False])
def test_the_head_of_a_file_with_another_classification_loss_is_converted(to_focal):
    """A softmax over one class and no-object is the sigmoid of the difference of the logits."""
    theirs, ours = TinyDetr(), TinyDetr()
    ours.cls_loss = "focal" if to_focal else "ce"
    with torch.no_grad():
        theirs.class_embed.bias.normal_()
    report = finetune_model(ours, theirs.state_dict(), cls_loss="ce" if to_focal else "focal")
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    file, found = theirs.class_embed(x), ours.class_embed(x)
    if to_focal:
        pairs = torch.stack((file[:, :-1], file[:, -1:].expand_as(file[:, :-1])))
        torch.testing.assert_close(found[:, :-1].sigmoid(), pairs.softmax(0)[0])
    else:
        pairs = torch.stack((found[:, :-1], found[:, -1:].expand_as(found[:, :-1])))
        torch.testing.assert_close(pairs.softmax(0)[0], file[:, :-1].sigmoid())
    given, now = ("ce", "focal") if to_focal else ("focal", "ce")
    told = (
        f"  converted: class_embed.weight, class_embed.bias: from --cls_loss {given} in the file to"
    )
    assert f"{told} {now}" in str(report).splitlines()


def test_new_classes_of_a_converted_head_keep_the_prior_of_the_focal_loss():
    theirs, ours = TinyDetr(classes=9), TinyDetr(classes=3)
    use_focal_scores(ours)
    classes = HeadClasses({0: "dog", 1: "cow", 2: "cat"}, {3: "cat", 7: "dog"})
    finetune_model(ours, theirs.state_dict(), classes, "ce")
    file, found = theirs.class_embed.bias, ours.class_embed.bias
    assert found[1].sigmoid().item() == pytest.approx(0.01)
    assert torch.equal(found[[0, 2]], file[[7, 3]] - file[-1])


def test_a_head_of_another_width_is_new():
    ours = TinyDetr()
    before = ours.class_embed.weight.detach().clone()
    state = TinyDetr(width=4).state_dict()
    report = finetune_model(ours, state, HeadClasses({0: "a"}, {0: "a"}))
    assert torch.equal(ours.class_embed.weight, before)
    assert "class_embed.weight is (4, 4) in the file and (4, 8) in the model" in report.skipped


def test_the_head_of_the_detector_in_a_segmentation_model():
    boxes, masks = TinyDetr(classes=5), TinySegmenter()
    before = head_of(masks.detr)
    finetune_model(masks, boxes.state_dict(), HeadClasses({0: "a"}, {4: "a"}))
    file, after = head_of(boxes), head_of(masks.detr)
    assert torch.equal(after, torch.stack([file[4], before[1], before[2], file[5]]))


def test_batch_counters_are_not_worth_a_word():
    state = TinyDetr().state_dict()
    del state["backbone.0.body.bn1.num_batches_tracked"]
    assert finetune_model(TinyDetr(), state).missing == []
    state["elsewhere.bn1.num_batches_tracked"] = torch.tensor(1)
    assert finetune_model(TinyDetr(), state).unused == []


def test_finetuning_from_another_model_is_refused():
    with pytest.raises(UserError, match="no tensor of the checkpoint matches"):
        finetune_model(TinyDetr(), {"fc.weight": torch.ones(1)})


def test_finetuning_between_boxes_and_masks():
    boxes, masks = TinyDetr(), TinySegmenter()
    report = finetune_model(masks, boxes.state_dict())
    assert same_weights(masks.detr, boxes)
    assert report.missing == ["mask_head.lay1.weight", "mask_head.lay1.bias"] and not report.unused
    other = TinyDetr()
    report = finetune_model(other, masks.state_dict())
    assert same_weights(other, boxes)
    assert report.unused == ["mask_head.lay1.weight", "mask_head.lay1.bias"] and not report.missing

"""Noised queries and their attention mask."""

import pytest
import torch

from models.anchor import denoising
from models.anchor.denoising import attention_mask, noise_boxes, noise_labels, noised_queries
from models.matcher import Objects

NUM_CLASSES = 7


def objects_of(counts):
    torch.manual_seed(3)
    total = sum(counts)
    labels = torch.randint(0, NUM_CLASSES, (total,))
    return Objects(labels, torch.rand(total, 4) * 0.4 + 0.3, counts)


@pytest.fixture
def without_noise(monkeypatch):
    monkeypatch.setattr(denoising, "noise_boxes", lambda boxes: boxes)
    monkeypatch.setattr(denoising, "noise_labels", lambda labels, num_classes: labels)


@pytest.mark.usefixtures("without_noise")
@pytest.mark.parametrize("counts", [[2, 3, 1], [0, 4], [1], [0, 0]])
@pytest.mark.parametrize("num_groups", [1, 3])
def test_queries_equal_naive_loops(counts, num_groups):
    objects = objects_of(counts)
    found = noised_queries(objects, num_groups, NUM_CLASSES)
    longest = max(counts)
    assert found.labels.shape == (len(counts), num_groups * longest)
    real = []
    for group in range(num_groups):
        number = 0
        for image, count in enumerate(counts):
            for place in range(longest):
                slot = group * longest + place
                assert found.group[slot] == group
                assert bool(found.padding[image, slot]) == (place >= count)
                if place < count:
                    assert found.labels[image, slot] == objects.labels[number]
                    box = found.box_logits[image, slot].sigmoid()
                    assert torch.allclose(box, objects.boxes_cxcywh[number], atol=1e-5)
                    real.append(image * num_groups * longest + slot)
                    number += 1
    assert found.query.tolist() == real


def test_boxes_move_by_at_most_the_scale_and_keep_their_center_inside():
    torch.manual_seed(0)
    boxes = torch.tensor([0.5, 0.4, 0.2, 0.1]).expand(4000, 4)
    noised = noise_boxes(boxes, scale=0.4)
    change = (noised - boxes).abs().amax(0)
    limits = torch.tensor([0.04, 0.02, 0.08, 0.04])
    assert (change <= limits + 1e-6).all() and (change > 0.98 * limits).all()
    assert (noised.mean(0) - boxes[0]).abs().max() < 0.01
    at_edge = noise_boxes(torch.tensor([[0.0, 1.0, 0.9, 1.0]]).expand(100, 4))
    assert at_edge.min() >= 0 and at_edge.max() <= 1


def test_labels_are_replaced_with_the_given_probability():
    torch.manual_seed(0)
    labels = torch.full((4000,), 3)
    noised = noise_labels(labels, NUM_CLASSES, probability=0.5)
    assert noised.unique().tolist() == list(range(NUM_CLASSES))
    assert float((noised != 3).float().mean()) == pytest.approx(0.5 * 6 / 7, abs=0.03)
    assert torch.equal(noise_labels(labels, NUM_CLASSES, probability=0), labels)


def test_noise_differs_between_groups_and_repeats_with_the_seed():
    objects = objects_of([2, 3])
    torch.manual_seed(5)
    first = noised_queries(objects, 2, NUM_CLASSES)
    torch.manual_seed(5)
    again = noised_queries(objects, 2, NUM_CLASSES)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.box_logits[:, :3], first.box_logits[:, 3:])


def test_attention_mask_equals_naive_loops():
    group = torch.tensor([0, 0, 1, 1, 1])
    mask = attention_mask(3, group)
    for row in range(8):
        for column in range(8):
            if column < 3:  # all queries see ordinary queries
                visible = True
            elif row < 3:
                visible = False
            else:
                visible = group[row - 3] == group[column - 3]
            assert bool(mask[row, column]) != bool(visible), (row, column)

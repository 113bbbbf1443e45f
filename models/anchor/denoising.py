"""Denoising queries for training: noised ground truth that the decoder reconstructs (DN-DETR).

Source: Li et al., "DN-DETR: Accelerate DETR Training by Introducing Query DeNoising", CVPR 2022.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.matcher import Objects
from util.tensor_ops import to_device

BOX_NOISE = 0.4  # DN-DETR, section 5.1
LABEL_NOISE = 0.2
_LOGIT_EPS = 1e-3


class DenoisingQueries(NamedTuple):
    """Denoising queries: G noised copies of the objects of each image, padded to n objects.

    Attributes:
        labels: (B, G * n) noised class ids.
        box_logits: (B, G * n, 4) logits of the noised boxes, cxcywh.
        padding: (B, G * n), True = padding.
        group: (G * n,) number of the group.
        query: (G * N,) index of each noised object in the flattened queries (B * G * n), ordered
            by group, then by object in the batch.
    """

    labels: Tensor
    box_logits: Tensor
    padding: Tensor
    group: Tensor
    query: Tensor


def noised_queries(objects: Objects, num_groups: int, num_classes: int) -> DenoisingQueries:
    """Sample the denoising queries of all groups, with the global random generator.

    Args:
        objects: the objects of the batch.
        num_groups: number of groups G.
        num_classes: random labels are below this number.
    """
    counts, device = objects.counts, objects.labels.device
    batch_size, longest = len(counts), max(counts)
    boxes = noise_boxes(objects.boxes_cxcywh.expand(num_groups, -1, -1))  # (G, N, 4)
    labels = noise_labels(objects.labels.expand(num_groups, -1), num_classes)  # (G, N)
    image = to_device(torch.arange(batch_size).repeat_interleave(torch.tensor(counts)), device)
    place = to_device(torch.cat([torch.arange(count) for count in counts]), device)
    group = torch.arange(num_groups, device=device)
    width = num_groups * longest
    query = (image * width + place + group[:, None] * longest).flatten()  # (G * N,)
    shape = batch_size * width
    padded_labels = labels.new_zeros(shape).index_copy(0, query, labels.flatten())
    padded_boxes = boxes.new_full((shape, 4), 0.5).index_copy(0, query, boxes.flatten(0, 1))
    padding = torch.ones(shape, dtype=torch.bool, device=device).index_fill(0, query, False)
    return DenoisingQueries(
        labels=padded_labels.view(batch_size, width),
        box_logits=padded_boxes.view(batch_size, width, 4).logit(_LOGIT_EPS),
        padding=padding.view(batch_size, width),
        group=group.repeat_interleave(longest),
        query=query,
    )


def noise_boxes(boxes_cxcywh: Tensor, scale: float = BOX_NOISE) -> Tensor:
    """Shift and resize boxes at random.

    Args:
        boxes_cxcywh: (..., 4) in [0, 1].
        scale: below 1. Centers move by at most ``scale`` times half of the box size, so they stay
            inside the box; width and height change by at most ``scale`` times their values.

    Source: DN-DETR, section 4.2.
    """
    sizes = boxes_cxcywh[..., 2:]
    largest = torch.cat((sizes / 2, sizes), dim=-1) * scale
    noise = torch.rand_like(boxes_cxcywh) * 2 - 1
    return (boxes_cxcywh + noise * largest).clamp(0, 1)


def noise_labels(labels: Tensor, num_classes: int, probability: float = LABEL_NOISE) -> Tensor:
    """With the given probability, replace each class id (...) by a random class id.

    Source: DN-DETR, section 4.2 (label flipping).
    """
    random = torch.randint_like(labels, num_classes)
    flipped = torch.rand(labels.shape, device=labels.device) < probability
    return torch.where(flipped, random, labels)


def attention_mask(num_queries: int, group: Tensor) -> Tensor:
    """Mask of the self-attention of ``num_queries`` ordinary queries, then denoising queries.

    Ordinary queries do not attend to denoising queries, which contain the ground truth. A denoising
    query attends to ordinary queries and to its own group.

    Args:
        num_queries: number of ordinary queries Q.
        group: (D,) group of each denoising query.

    Returns:
        (Q + D, Q + D), True = query i (row) may not attend to query j (column).

    Source: DN-DETR, section 4.3, equation 8.
    """
    ordinary = group.new_full((num_queries,), -1)
    groups = torch.cat((ordinary, group))
    return (groups >= 0) & (groups != groups[:, None])

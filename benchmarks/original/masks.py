"""A naive mask head, the reference for `models.segmentation` in tests and benchmarks.

Image features are repeated for every query and concatenated with its attention maps. The masks of
all queries are computed at once; the losses use the masks of the matched queries.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from util.nested_tensor import nested_tensor_from_tensor_list


def head_masks(head: Any, x: Tensor, attention: Tensor, fpns: Sequence[Tensor]) -> Tensor:
    """Mask logits (B, Q, H, W) from encoded images (B, C, h, w) and maps (B, Q, heads, h, w)."""
    batch_size, num_queries = attention.shape[:2]
    repeated = x.repeat_interleave(num_queries, 0)
    x = torch.cat([repeated, attention.flatten(0, 1)], 1)
    x = F.relu(head.gn1(head.lay1(x)))
    x = F.relu(head.gn2(head.lay2(x)))
    for number, features in enumerate(fpns, start=1):
        adapter = getattr(head, f"adapter{number}")
        layer, norm = getattr(head, f"lay{number + 2}"), getattr(head, f"gn{number + 2}")
        finer = adapter(features).repeat_interleave(num_queries, 0)
        x = F.relu(norm(layer(F.interpolate(x, finer.shape[-2:]) + finer)))
    masks: Tensor = head.out_lay(x)
    return masks.view(batch_size, num_queries, *x.shape[-2:])


def forward(model: Any, images: Any) -> dict[str, Tensor]:
    """The outputs of `DETRsegm.forward`, with the masks of all queries computed at once."""
    samples = nested_tensor_from_tensor_list(images) if isinstance(images, list) else images
    features, positions = model.detr.backbone(samples)
    states, projected, memory = model.detr.decode(features[-1], positions[-1])
    attention = model.bbox_attention(states[-1], memory, mask=features[-1].mask)
    finer = [feature.tensors for feature in features[-2::-1]]
    masks = head_masks(model.mask_head, projected, attention, finer)
    return {**model.detr.predict(states), "pred_masks": masks}


def mask_losses(
    masks: Tensor,
    indices: Sequence[tuple[Tensor, Tensor]],
    targets: Sequence[Mapping[str, Tensor]],
    num_boxes: float,
) -> dict[str, Tensor]:
    """Focal and dice loss, computed mask by mask, over padded images."""
    height = max(t["masks"].shape[1] for t in targets)
    width = max(t["masks"].shape[2] for t in targets)
    resized = F.interpolate(masks, (height, width), mode="bilinear", align_corners=False)
    focal = dice = masks.sum() * 0
    for image, (queries, objects) in enumerate(indices):
        for query, number in zip(queries.tolist(), objects.tolist(), strict=True):
            p = resized[image, query].sigmoid()
            true = torch.zeros(height, width, dtype=torch.bool)
            mask = targets[image]["masks"][number]
            true[: mask.shape[0], : mask.shape[1]] = mask.bool()
            inside, outside = p[true], p[~true]
            terms = 0.25 * ((1 - inside) ** 2 * -inside.log()).sum()
            terms = terms + 0.75 * (outside**2 * -(1 - outside).log()).sum()
            focal = focal + terms / true.numel()
            dice = dice + 1 - (2 * inside.sum() + 1) / (p.sum() + true.sum() + 1)
    return {"loss_mask": focal / num_boxes, "loss_dice": dice / num_boxes}

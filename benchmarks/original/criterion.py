"""The original's matching and loss algorithm, the reference in tests and benchmarks.

Decoder layers are matched separately, and their losses are computed separately. The cost matrix has
all queries and all objects of the batch, although only the blocks within an image are needed; the
GIoU loss uses the diagonal of a full pairwise matrix.
"""

from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from util.box_ops import box_cxcywh_to_xyxy, generalized_box_iou

Weights = tuple[float, float, float]

# Of the class, L1 and GIoU costs and losses, in the published recipe.
MATCHING_WEIGHTS: Weights = (1.0, 5.0, 2.0)
LOSS_WEIGHTS = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}


def match(outputs: dict[str, Any], targets: list[dict[str, Tensor]], weights: Weights) -> list[Any]:
    """Matched (query, object) indices per image; ``weights`` of the class, L1 and GIoU costs."""
    with torch.no_grad():
        batch_size, num_queries = outputs["pred_logits"].shape[:2]
        probs = outputs["pred_logits"].flatten(0, 1).softmax(-1)
        boxes = outputs["pred_boxes"].flatten(0, 1)
        labels = torch.cat([t["labels"] for t in targets])
        target_boxes = torch.cat([t["boxes"] for t in targets])
        cost_class = -probs[:, labels]
        cost_bbox = torch.cdist(boxes, target_boxes, p=1)
        cost_giou = -generalized_box_iou(
            box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(target_boxes)
        )
        cost = weights[0] * cost_class + weights[1] * cost_bbox + weights[2] * cost_giou
        cost = cost.view(batch_size, num_queries, -1).cpu()
        blocks = cost.split([len(t["labels"]) for t in targets], dim=-1)
        pairs = [linear_sum_assignment(block[image]) for image, block in enumerate(blocks)]
        return [(torch.as_tensor(query), torch.as_tensor(target)) for query, target in pairs]


def layer_losses(
    outputs: dict[str, Any],
    targets: list[dict[str, Tensor]],
    indices: list[Any],
    num_boxes: float,
    empty_weight: Tensor,
) -> dict[str, Tensor]:
    """Losses of one decoder layer."""
    logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
    no_object = logits.shape[-1] - 1
    image = torch.cat([torch.full_like(query, i) for i, (query, _) in enumerate(indices)])
    query = torch.cat([query for query, _ in indices])
    labels = torch.cat(
        [t["labels"][target] for t, (_, target) in zip(targets, indices, strict=True)]
    )
    classes = torch.full(logits.shape[:2], no_object, dtype=torch.int64, device=logits.device)
    classes[image, query] = labels
    target_boxes = torch.cat(
        [t["boxes"][target] for t, (_, target) in zip(targets, indices, strict=True)]
    )
    predicted = boxes[image, query]
    giou = generalized_box_iou(
        box_cxcywh_to_xyxy(predicted), box_cxcywh_to_xyxy(target_boxes)
    ).diag()
    counts = torch.as_tensor([len(t["labels"]) for t in targets], device=logits.device)
    correct = (logits[image, query].argmax(-1) == labels).float().mean() * 100
    return {
        "loss_ce": F.cross_entropy(logits.transpose(1, 2), classes, empty_weight),
        "class_error": 100 - correct.detach(),
        "loss_bbox": F.l1_loss(predicted, target_boxes, reduction="none").sum() / num_boxes,
        "loss_giou": (1 - giou).sum() / num_boxes,
        "cardinality_error": F.l1_loss(
            (logits.argmax(-1) != no_object).sum(1).float(), counts.float()
        ).detach(),
    }


def losses(
    outputs: dict[str, Any],
    targets: list[dict[str, Tensor]],
    weights: Weights,
    empty_weight: Tensor,
) -> dict[str, Tensor]:
    """All losses of a batch, under the names of `models.criterion.SetCriterion`."""
    num_boxes = max(float(sum(len(t["labels"]) for t in targets)), 1.0)
    named = {}
    for layer, suffix in [(outputs, "")] + [
        (layer, f"_{i}") for i, layer in enumerate(outputs.get("aux_outputs", []))
    ]:
        terms = layer_losses(
            layer, targets, match(layer, targets, weights), num_boxes, empty_weight
        )
        named.update({k + suffix: v for k, v in terms.items() if k != "class_error" or not suffix})
    return named


def weighted_sum(named: dict[str, Tensor]) -> Tensor:
    """The weighted sum of the losses of all decoder layers."""
    weighted = [
        value * LOSS_WEIGHTS[name.rstrip("_0123456789")]
        for name, value in named.items()
        if name.startswith("loss")
    ]
    return torch.stack(weighted).sum()

"""A stand-in for a trained DETR: it finds the red patch of `tests.datasets.photo_cases`."""

import torch
from torch import nn

from export.source import LoadedModel

CATEGORIES = {1: "red patch", 2: "other"}


class RedFinder(nn.Module):
    """Query 0 is the box around all red pixels, with score 0.9; query 1 is "other", with 0.4.

    Args:
        masks: also predict the red pixels as the mask of query 0.
    """

    def __init__(self, masks=False):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))  # its device is that of the model
        self.masks = masks
        self.batch_shapes = []
        if masks:
            self.mask_head = nn.Identity()

    def forward(self, batch):
        self.batch_shapes.append(tuple(batch.shape))
        red = (batch[:, 0] > 1) & (batch[:, 2] < -0.5)  # normalized (B, H, W)
        boxes = torch.stack([self._box_of(one) for one in red])
        scores = torch.tensor([[0.02, 0.9, 0.03, 0.05], [0.2, 0.15, 0.4, 0.25]])
        outputs = {
            "pred_logits": scores.log().expand(len(batch), 2, 4),
            "pred_boxes": torch.stack([boxes, torch.full_like(boxes, 0.5)], dim=1),
        }
        if self.masks:
            logits = torch.where(red, 5.0, -5.0)
            outputs["pred_masks"] = torch.stack([logits, -logits], dim=1)
        return outputs

    @staticmethod
    def _box_of(red):
        height, width = red.shape
        ys, xs = red.nonzero(as_tuple=True)
        if not len(xs):
            return torch.zeros(4)
        left, top, right, bottom = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        box = torch.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])
        return box / torch.tensor([width, height, width, height])


def red_finder(masks=False, panoptic=False, **changes):
    """The stand-in as a loaded model with input images of a short side of 64 pixels."""
    fields = {"num_classes": 3, "categories": CATEGORIES, "short_side": 64, "max_size": 200}
    if panoptic:
        fields |= {"is_thing": {1: True, 2: False}, "segment_threshold": 0.1}
    return LoadedModel(model=RedFinder(masks or panoptic).eval(), **{**fields, **changes})

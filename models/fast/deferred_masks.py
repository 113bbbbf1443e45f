"""Masks of selected queries only; used in training, where the loss needs the matched queries.

The mask head has the largest activations of the model, but only a few of the 100 queries are
matched. In training `models.segmentation.DETRsegm` therefore returns `DeferredMasks`, and the
criterion runs the mask head for the matched queries only (for the memory saved see
``benchmarks/RESULTS.md``).
"""

from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

_NOT_A_TENSOR = (
    "in training outputs['pred_masks'] is not a tensor but DeferredMasks, to save memory: "
    "call .dense() for the mask logits (B, Q, H, W), or .of_queries(indices) for some queries"
)


class _MaskHead(Protocol):
    def masks(self, attention: Tensor, maps: list[Tensor], image: Tensor) -> Tensor:
        """See `models.segmentation.MaskHeadSmallConv.masks`."""


class DeferredMasks:
    """Mask logits of a training batch, computed on request by `of_queries` or `dense`.

    Operations on tensors raise an error that names these two methods.

    Args:
        head: the mask head, see `models.segmentation.MaskHeadSmallConv.masks`.
        attention: attention maps of all queries (B, Q, heads, h, w).
        maps: image features, see `models.segmentation.MaskHeadSmallConv.image_maps`.
    """

    def __init__(self, head: _MaskHead, attention: Tensor, maps: list[Tensor]):
        self._head = head
        self._attention = attention
        self._maps = maps
        device = attention.device.type
        # The criterion runs outside autocast; the mask head runs in the precision of the model.
        self._autocast = torch.autocast(
            device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        )

    def of_queries(self, indices: Tensor) -> Tensor:
        """Compute the masks of selected queries.

        Args:
            indices: (P,) int64, image * Q + query.

        Returns:
            mask logits (P, H, W).
        """
        image = indices // self._attention.shape[1]
        with self._autocast:
            masks = self._head.masks(self._attention.flatten(0, 1)[indices], self._maps, image)
        return masks.squeeze(1)

    def dense(self) -> Tensor:
        """Compute the masks of all queries: mask logits (B, Q, H, W)."""
        batch_size, num_queries = self._attention.shape[:2]
        indices = torch.arange(batch_size * num_queries, device=self._attention.device)
        return self.of_queries(indices).unflatten(0, (batch_size, num_queries))

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"no attribute {name!r}: {_NOT_A_TENSOR}")

    def _raise_not_a_tensor(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(_NOT_A_TENSOR)

    __getitem__ = __neg__ = __gt__ = __ge__ = __lt__ = __le__ = _raise_not_a_tensor
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _raise_not_a_tensor

    @classmethod
    def __torch_function__(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """Called by PyTorch functions with this object as an argument."""
        raise TypeError(_NOT_A_TENSOR)


def select_queries(masks: Tensor | DeferredMasks, indices: Tensor) -> Tensor:
    """Mask logits (P, H, W) of selected queries.

    Args:
        masks: mask logits (B, Q, H, W).
        indices: (P,) int64, image * Q + query.
    """
    if isinstance(masks, DeferredMasks):
        return masks.of_queries(indices)
    return masks.flatten(0, 1)[indices]


def with_all_masks(outputs: dict[str, Any]) -> dict[str, Any]:
    """Replace `DeferredMasks` in model outputs by the mask logits (B, Q, H, W) of all queries."""
    masks = outputs.get("pred_masks")
    return {**outputs, "pred_masks": masks.dense()} if isinstance(masks, DeferredMasks) else outputs

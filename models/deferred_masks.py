"""Masks that are computed for those queries alone that somebody asks for."""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


class _MaskHead(Protocol):
    def masks(self, attention: Tensor, maps: list[Tensor], image: Tensor) -> Tensor: ...


class DeferredMasks:
    """Stands for the mask logits (B, Q, H, W) of a training step, before any is computed.

    A loss needs the masks of the matched queries alone, a few of a hundred, and the activations of
    the mask head are the largest of the whole model. Which queries these are is known after the
    matching only, so the head runs when `select_queries` asks for them.

    To anybody else this is the tensor of all masks: attributes, indices and functions of PyTorch
    compute it.

    Args:
        head: computes masks, see `models.segmentation.MaskHeadSmallConv.masks`.
        attention: maps of all queries (B, Q, heads, h, w).
        maps: what the head made of the image features.
    """

    def __init__(self, head: _MaskHead, attention: Tensor, maps: list[Tensor]):
        self._head = head
        self._attention = attention
        self._maps = maps
        device = attention.device.type
        # The losses run outside mixed precision; the head runs as the rest of the model did.
        self._autocast = torch.autocast(
            device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        )

    def of_queries(self, query: Tensor) -> Tensor:
        """Mask logits (P, H, W) of the queries (P,), counted over the batch: 0 to B * Q - 1."""
        image = query // self._attention.shape[1]
        with self._autocast:
            masks = self._head.masks(self._attention.flatten(0, 1)[query], self._maps, image)
        return masks.squeeze(1)

    def dense(self) -> Tensor:
        """All mask logits (B, Q, H, W)."""
        batch_size, num_queries = self._attention.shape[:2]
        every = torch.arange(batch_size * num_queries, device=self._attention.device)
        return self.of_queries(every).unflatten(0, (batch_size, num_queries))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copying and pickling ask before there is anything to compute
            raise AttributeError(name)
        return getattr(self.dense(), name)

    def __getitem__(self, index: Any) -> Tensor:
        return self.dense()[index]

    def __len__(self) -> int:
        return len(self._attention)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def plain(value: Any) -> Any:
            return value.dense() if isinstance(value, cls) else value

        return func(*tree_map(plain, args), **tree_map(plain, kwargs or {}))


def _operator(name: str) -> Any:
    """A method that applies an operator to the tensor of all masks."""

    def apply(self: DeferredMasks, *others: Any) -> Any:
        return getattr(self.dense(), name)(*others)

    return apply


# Python looks operators up in the class, past ``__getattr__``.
for _name in (
    "add",
    "radd",
    "sub",
    "rsub",
    "mul",
    "rmul",
    "truediv",
    "neg",
    "gt",
    "ge",
    "lt",
    "le",
):
    setattr(DeferredMasks, f"__{_name}__", _operator(f"__{_name}__"))


def select_queries(masks: Tensor | DeferredMasks, query: Tensor) -> Tensor:
    """Masks (P, H, W) of the queries (P,), counted over the batch, out of (B, Q, H, W)."""
    if isinstance(masks, DeferredMasks):
        return masks.of_queries(query)
    return masks.flatten(0, 1)[query]

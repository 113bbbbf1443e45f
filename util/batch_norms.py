"""Batch norms: running statistics do not change while weights are frozen, or in skipped steps."""

import torch
from torch import Tensor, nn


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """All BatchNorm modules, not counting FrozenBatchNorm2d."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def keep_frozen_norms(model: nn.Module) -> None:
    """Set batch norms with frozen weights to evaluation mode: their statistics do not change.

    Call it after ``model.train()``.
    """
    for norm in batch_norms(model):
        weights = list(norm.parameters(recurse=False))
        if weights and not any(parameter.requires_grad for parameter in weights):
            norm.eval()


class BatchNormBackup:
    """Restores the running statistics of batch norms after a skipped step.

    Args:
        model: model whose batch norms in training mode are backed up.
    """

    def __init__(self, model: nn.Module) -> None:
        norms = [norm for norm in batch_norms(model) if norm.training]
        self._buffers = [buffer for norm in norms for buffer in norm.buffers()]
        self._saved = [buffer.clone() for buffer in self._buffers]

    def save(self) -> None:
        """Copy the running statistics. Call this before the forward pass."""
        for saved, buffer in zip(self._saved, self._buffers, strict=True):
            saved.copy_(buffer)

    def restore(self, skipped: Tensor) -> None:
        """Write the copies back if ``skipped``, a 0-d bool tensor on the device, is true."""
        for saved, buffer in zip(self._saved, self._buffers, strict=True):
            buffer.copy_(torch.where(skipped, saved, buffer))

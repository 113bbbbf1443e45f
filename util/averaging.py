"""Exponential moving averages of weights, which often score better than the weights themselves."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of a model that follows it: ``average = decay * average + (1 - decay) * weights``.

    Moving statistics of batch norms are averaged too. Call ``update_parameters(model)`` after each
    step; the weights are in ``module``.

    Args:
        model: on its device.
        decay: above 0, below 1; 0.9998 looks back over about 5000 steps.

    Source: Polyak and Juditsky, 1992; the exponential form is that of Tarvainen and Valpola, 2017.
    """
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    return averaged.requires_grad_(False)

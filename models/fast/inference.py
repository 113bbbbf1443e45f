"""Prepare a model for inference: the same predictions in less time."""

from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._pytree import tree_map

from models.detr import DETR
from models.segmentation import DETRsegm
from models.transformer import Transformer, TransformerDecoder

from .convolution import SmallMapConv2d
from .fast_forward import FastForward
from .fused_resnet import fuse_resnets, pads_with_zeros
from .fused_transformer import fuse_transformers
from .packed_layers import PackedConv


def optimize_for_inference(model: nn.Module, aux_outputs: bool = False) -> nn.Module:
    """Return a copy of a model that predicts faster, with the same results up to rounding.

    The original does not change. The copy shares its parameters and buffers; convolutions and
    linear layers also hold prepacked weights (oneDNN's blocked layout) with the batch norms folded
    in. Optimize the model again after its weights change or it moves to another device.

    Frozen batch norms (and batch norms in evaluation mode) are folded into the convolutions of
    torchvision ResNets; convolutions run in channels-last layout, fused with residual addition and
    ReLU. In float32, 3 x 3 convolutions with stride 1 and 128 channels or more use Winograd's
    algorithm on large enough inputs. Linear layers of the transformer are fused in the same way.
    All decoder layers run; in a DETR or DETRsegm itself only the output of the last one is
    normalized and goes through the heads. The precision is that of the model, or of the autocast
    context of the call. Nothing is compiled, so new image sizes need no compilation. Modules of
    other types do not change. Forward hooks work on all modules; a block or layer with a hook
    inside falls back to its unfused forward pass.

    Args:
        model: a `models.detr.DETR`, `models.segmentation.DETRsegm`, `models.demo.MinimalDETR` or
            another model built from their modules, on its device. A scripted or optimized model is
            returned unchanged.
        aux_outputs: keep the predictions of all decoder layers, if the model returns them.

    Returns:
        the copy, in evaluation mode. It computes without gradients, and raises a ``RuntimeError``
        if it is set to training mode, loads a state dict, or is moved, converted, deep-copied
        or pickled.
    """
    _notice_optimizer_steps()
    model = getattr(model, "_orig_mod", model)  # inside torch.compile's wrapper
    if isinstance(model, torch.jit.ScriptModule) or isinstance(model.forward, _WithoutGradients):
        return model
    prepared = _copy(model, {}).eval()
    with torch.no_grad():
        fuse_resnets(prepared)
        fuse_transformers(prepared)
        _pack_other_convolutions(prepared)
    if not aux_outputs:
        _drop_auxiliary_outputs(prepared)
    prepared.forward = _WithoutGradients(prepared.forward, prepared)
    _refuse_changes(prepared)
    return prepared


def optimize_on_cpu(model: nn.Module, aux_outputs: bool = False) -> nn.Module:
    """`optimize_for_inference` for a model on a CPU; other models are returned as they are.

    Optimized models have not been tested on a GPU.
    """
    is_on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    return optimize_for_inference(model, aux_outputs) if is_on_cpu else model


@cache
def _notice_optimizer_steps() -> None:
    """Increment the version counters of updated parameters after each step of any optimizer.

    PyTorch's fused optimizers change parameters without incrementing them. Parameters without
    gradients are not updated: incrementing their version would break pending backward passes.
    """

    def count(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Step hook: increment the version counter of each parameter with a gradient."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    torch.autograd.graph.increment_version(parameter)

    register_optimizer_step_post_hook(count)


class _WithoutGradients:
    """Runs a forward pass in inference mode; the result contains normal tensors.

    Args:
        forward: the forward pass of ``model``.
        model: its parameters and buffers must not change, or the folded and packed
            copies become stale.
    """

    def __init__(self, forward: Callable[..., Any], model: nn.Module):
        self._forward = forward
        tensors = [*model.parameters(), *model.buffers()]
        self._weights = [tensor for tensor in tensors if not tensor.is_inference()]
        self._versions = [p._version for p in self._weights]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if [p._version for p in self._weights] != self._versions:
            raise RuntimeError(
                "the weights have changed since optimize_for_inference: optimize the model again"
            )
        with torch.inference_mode():
            out = self._forward(*args, **kwargs)
        if torch.is_inference_mode_enabled():
            return out
        # Tensors created in inference mode cannot be changed in place outside of it.
        return tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, out)


def _copy(module: nn.Module, copies: dict[int, nn.Module]) -> nn.Module:
    """Copy a module and its children; parameters, buffers and other attributes are shared."""
    if id(module) in copies or isinstance(module, torch.jit.ScriptModule):
        return copies.get(id(module), module)
    new = copies[id(module)] = module.__class__.__new__(module.__class__)
    for name, value in module.__dict__.items():  # children, hooks, … are in dicts
        new.__dict__[name] = value.copy() if isinstance(value, dict | set) else value
    new._compiled_call_impl = None  # it belongs to the original
    for name, parameter in module._parameters.items():
        if parameter is not None:
            new._parameters[name] = nn.Parameter(parameter.detach(), requires_grad=False)
    for name, child in module._modules.items():
        new._modules[name] = None if child is None else _copy(child, copies)
    return new


def _pack_other_convolutions(model: nn.Module) -> None:
    """Pack convolutions outside of ResNets, such as in `models.detr` and the mask head."""
    modules: list[Any] = list(model.modules())
    replaced = [m.forward for m in modules if isinstance(m.forward, FastForward)]
    packed = {id(inside) for forward in replaced for inside in forward.watched}
    for module in modules:
        is_conv = type(module) is nn.Conv2d or type(module) is SmallMapConv2d
        if is_conv and id(module) not in packed and pads_with_zeros(module):
            # Watched: hooks may compute its weights, as those of `torch.nn.utils.prune` do.
            FastForward.replace(module, PackedConv(module), watched=[module])


def _drop_auxiliary_outputs(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, DETR):
            module.aux_loss = False
    detector = model.detr if type(model) is DETRsegm else model
    if isinstance(detector, DETR) and _reads_last_layer(detector):
        detector.transformer.decoder.return_intermediate = False  # type: ignore[union-attr]


def _reads_last_layer(detr: DETR) -> bool:
    """Whether only the last decoder layer is used if ``aux_loss`` is off."""
    methods = ("forward", "detect", "decode", "predict")
    is_plain = all(getattr(type(detr), name) is getattr(DETR, name) for name in methods)
    transformer = detr.transformer
    # A subclass may combine the outputs of all layers.
    return (
        is_plain
        and type(transformer) is Transformer
        and type(transformer.decoder) is TransformerDecoder
    )


def _refuse_changes(model: Any) -> None:
    def train(mode: bool = True) -> nn.Module:
        """Refuse training mode."""
        return refuse("cannot be trained") if mode else model

    def apply(convert: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
        """Refuse conversions that would change a tensor."""
        tensors = [*model.parameters(), *model.buffers()]
        if any(convert(tensor) is not tensor for tensor in tensors):
            refuse("cannot be moved or converted")
        return model

    def refuse(what: str, instead: str = "change") -> NoReturn:
        """Raise the error."""
        raise RuntimeError(
            f"a model returned by optimize_for_inference {what}: "
            f"{instead} the original model, then optimize it again"
        )

    def reduce(*args: Any) -> NoReturn:
        """Refuse copies and pickles, which prepacked weights do not support."""
        refuse("cannot be copied or pickled", "copy or pickle")

    model.train = train
    model.load_state_dict = lambda *args, **kwargs: refuse("cannot load weights")
    model._apply = apply
    model.__deepcopy__ = model.__reduce_ex__ = reduce

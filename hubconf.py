"""Entry points for ``torch.hub.load``: the released DETR models.

    model = torch.hub.load(REPO, "detr_resnet50", pretrained=True).eval()
    outputs = model(images)  # (B, 3, H, W) RGB, normalized with the ImageNet mean and std

torch.hub lists every callable of this file as an entry point: import modules, not classes.
"""

import collections.abc
import os
import sys

dependencies = ["torch", "torchvision"]

_FOLDER = os.path.dirname(os.path.realpath(__file__))


def _check_own_package(name: str) -> None:
    """Raise an ImportError if another project's package is imported as ``name``."""
    module = sys.modules.get(name)
    paths = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
    path = next(filter(None, paths), "a module without a file")
    if module and os.path.dirname(os.path.realpath(path)) != os.path.join(_FOLDER, name):
        raise ImportError(
            f"the DETR hub entries need the package {name!r} in {_FOLDER}, but {path} has been "
            "imported under that name: rename that package, or load the model in a process that "
            "does not import it"
        )


_check_own_package("models")
_check_own_package("util")

from torch import nn  # noqa: E402

from models import detr, panoptic  # noqa: E402
from models.released import build, zoo  # noqa: E402

_Result = nn.Module | tuple[nn.Module, nn.Module]
_Entry = collections.abc.Callable[..., _Result]

_ARGUMENTS = """
Args:
    pretrained: load the released weights. With a different ``num_classes`` the classes' rows in the
        classification head are initialized randomly, and a report of the loaded weights is printed.
    num_classes: number of classes, without the no-object class. Default: 91, for COCO's category
        ids, or 250 (things and stuff) for panoptic models.
    threshold: minimum score of a segment in the panoptic post-processor; panoptic models only.
    return_postprocessor: return (model, post-processor) instead of the model. The post-processor
        is a `models.detr.PostProcess`, or for panoptic models a
        `models.panoptic.PostProcessPanoptic` that treats category ids up to 90 as things (set its
        ``is_thing_map`` for other data).
    backbone_weights: initial weights of the backbone if ``pretrained`` is False: ``imagenet``
        (downloaded), ``none`` (random), or the path of a weights file; not for detr_demo.
    query_design: ``learned``, or ``anchor``: the model of configs/detr_r50_50ep_anchor.txt, with
        300 queries and without released weights; box models only. For weights that were trained
        with ``--overlap_penalty C``, set ``model.overlap_penalty = C``: it is not in the weights.
    optimize: return a copy for faster inference, which cannot be trained or changed, instead of the
        model itself, see `models.fast.inference.optimize_for_inference`.

Returns:
    The model in training mode: call ``.eval()`` (with ``optimize`` it is in evaluation mode). It
    takes a list of images (3, H, W) or a batch (B, 3, H, W), RGB, normalized with the ImageNet mean
    and standard deviation (detr_demo: a batch only, of at most 1600 pixels per side), and returns
    ``pred_logits`` (B, Q, num_classes + 1) and ``pred_boxes`` (B, Q, 4), cxcywh in [0, 1], for Q =
    100 queries (300 with anchor queries). Panoptic models add ``pred_masks`` (B, Q, H / 4, W / 4),
    logits.

Raises:
    UserError: if ``num_classes`` is invalid, or weights cannot be downloaded or do not match.
"""


def _with_help(entry: _Entry, name: str) -> _Entry:
    """Set the name of an entry point, and its docstring for ``torch.hub.help``."""
    released = zoo.RELEASED_MODELS[name]
    scores = {"PQ": released.pq, "box AP": released.box_ap, "mask AP": released.mask_ap}
    numbers = ", ".join(f"{metric} {score}" for metric, score in scores.items() if score)
    summary = f"{released.title}: {numbers or released.remark} on COCO val2017."
    if released.dilation:
        summary += "\n\nTrained with one image per GPU; larger batches reduce the AP."
    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"{summary}\n{_ARGUMENTS}"
    return entry


def _box_entry(name: str) -> _Entry:
    def entry(
        pretrained: bool = False,
        num_classes: int = 91,
        return_postprocessor: bool = False,
        backbone_weights: str = "imagenet",
        query_design: str = "learned",
        optimize: bool = False,
    ) -> _Result:
        """Build the model; `_with_help` replaces this docstring."""
        model = build.build_released(
            name, pretrained, num_classes, backbone_weights, query_design, optimize
        )
        if not return_postprocessor:
            return model
        return model, detr.PostProcess(cls_loss=str(model.cls_loss))

    return _with_help(entry, name)


def _panoptic_entry(name: str) -> _Entry:
    def entry(
        pretrained: bool = False,
        num_classes: int = 250,
        threshold: float = 0.85,
        return_postprocessor: bool = False,
        backbone_weights: str = "imagenet",
        optimize: bool = False,
    ) -> _Result:
        """Build the model; `_with_help` replaces this docstring."""
        model = build.build_released(
            name, pretrained, num_classes, backbone_weights, optimize=optimize
        )
        if not return_postprocessor:
            return model
        return model, panoptic.PostProcessPanoptic(panoptic.coco_is_thing(num_classes), threshold)

    return _with_help(entry, name)


def _demo_entry(name: str) -> _Entry:
    def entry(
        pretrained: bool = False,
        num_classes: int = 91,
        return_postprocessor: bool = False,
        optimize: bool = False,
    ) -> _Result:
        """Build the model; `_with_help` replaces this docstring."""
        model = build.build_released(name, pretrained, num_classes, optimize=optimize)
        return (model, detr.PostProcess()) if return_postprocessor else model

    return _with_help(entry, name)


detr_resnet50 = _box_entry("detr_resnet50")
detr_resnet50_dc5 = _box_entry("detr_resnet50_dc5")
detr_resnet101 = _box_entry("detr_resnet101")
detr_resnet101_dc5 = _box_entry("detr_resnet101_dc5")
detr_resnet50_panoptic = _panoptic_entry("detr_resnet50_panoptic")
detr_resnet50_dc5_panoptic = _panoptic_entry("detr_resnet50_dc5_panoptic")
detr_resnet101_panoptic = _panoptic_entry("detr_resnet101_panoptic")
detr_demo = _demo_entry("detr_demo")

"""Write and read ``preprocessor_config.json``, the image processor of Hugging Face's DETR."""

from collections.abc import Mapping
from typing import Any

from datasets.coco import IMAGENET_MEAN, IMAGENET_STD
from export.huggingface.entries import Entries, short
from util.errors import UserError

_BILINEAR = 2  # Pillow's number of the filter


def read_preprocessor(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Read the image sizes as the flags ``scales`` and ``max_size``.

    Args:
        config: content of ``preprocessor_config.json``.
        source: path of the file, for error messages.

    Raises:
        UserError: the transforms differ from ours in more than the sizes.
    """
    entries = Entries(config, source)
    entries.require(do_resize=True, do_rescale=True, do_normalize=True, resample=_BILINEAR)
    entries.require(rescale_factor=1 / 255, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD)
    if isinstance(config.get("size"), int):  # files of old versions
        shortest, longest = entries.get("size", int, 0), entries.get("max_size", int, 1333)
    else:
        size = entries.part("size")
        if not size.values:
            return {}
        shortest, longest = (size.get(f"{end}_edge", int, 0) for end in ("shortest", "longest"))
    if not 0 < shortest <= longest:
        raise UserError(
            f"{source}: size is {short(config['size'])}; our transforms need a shortest_edge and "
            "a longest_edge"
        )
    return {"scales": [shortest], "max_size": longest}


def preprocessor_config(panoptic: bool, short_side: int, max_size: int) -> dict[str, Any]:
    """The configuration of their image processor: the same transforms as in our evaluation."""
    return {
        "image_processor_type": "DetrImageProcessor",
        "format": "coco_panoptic" if panoptic else "coco_detection",
        "do_resize": True,
        "size": {"shortest_edge": short_side, "longest_edge": max_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
        "do_pad": True,
    }

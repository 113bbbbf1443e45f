"""Write and read ``preprocessor_config.json``, the image processor of Hugging Face's DETR."""

from collections.abc import Mapping
from typing import Any

from datasets.loading.byte_images import Normalization
from export.huggingface.entries import Entries, short
from util.errors import UserError

_BILINEAR = 2  # Pillow's number of the filter
_NOT_NORMALIZED = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def read_preprocessor(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Read the image sizes and the normalization as flags of main.py.

    Args:
        config: content of ``preprocessor_config.json``.
        source: path of the file, for error messages.

    Returns:
        ``scales``, ``max_size``, ``image_mean`` and ``image_std``, without those that the file does
        not have.

    Raises:
        UserError: we have no such transforms.
    """
    entries = Entries(config, source)
    entries.require(do_resize=True, resample=_BILINEAR, do_rescale=True, rescale_factor=1 / 255)
    return _read_sizes(entries) | _read_normalization(entries)


def _read_sizes(entries: Entries) -> dict[str, Any]:
    size = entries.values.get("size")
    if isinstance(size, int):  # files of old versions
        shortest, longest = entries.get("size", int, 0), entries.get("max_size", int, 1333)
    else:
        part = entries.part("size")
        if not part.values:
            return {}
        shortest, longest = (part.get(f"{end}_edge", int, 0) for end in ("shortest", "longest"))
    if not 0 < shortest <= longest:
        raise UserError(
            f"{entries.source}: size is {short(size)}; our transforms need a shortest_edge and "
            "a longest_edge"
        )
    return {"scales": [shortest], "max_size": longest}


def _read_normalization(entries: Entries) -> dict[str, list[float]]:
    if not entries.get("do_normalize", bool, True):
        return _NOT_NORMALIZED.flags()
    names = ("image_mean", "image_std")
    given = {name: value for name in names if (value := entries.values.get(name)) is not None}
    flags = Normalization.of(given, entries.source).flags()
    return {name: flags[name] for name in given}


def preprocessor_config(
    panoptic: bool, short_side: int, max_size: int, normalization: Normalization
) -> dict[str, Any]:
    """The configuration of their image processor: the same transforms as in our evaluation."""
    return {
        "image_processor_type": "DetrImageProcessor",
        "format": "coco_panoptic" if panoptic else "coco_detection",
        "do_resize": True,
        "size": {"shortest_edge": short_side, "longest_edge": max_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        **normalization.flags(),
        "do_pad": True,
    }

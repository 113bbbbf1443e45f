"""Checkpoints as safetensors files: weights, and some of the other keys as metadata."""

import json
import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from util.errors import UserError

SUFFIX = ".safetensors"
# Keys of a checkpoint that are stored in the metadata as JSON.
_METADATA_KEYS = (
    *("args", "categories", "is_thing", "category_ids", "unused_ids", "thresholds", "epoch"),
    "split",
)
_BY_CATEGORY_ID = ("categories", "is_thing")


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file.

    Returns:
        tensors by name on the CPU, and the metadata.

    Raises:
        UserError: if the file does not exist or is not a valid safetensors file, or the
            package is not installed.
    """
    source = os.fspath(path)
    package = _package(source)
    try:
        with package.safe_open(source, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except OSError as err:
        raise UserError(
            f"{source}: cannot be read ({err.strerror or err}): give the path of a safetensors file"
        ) from err
    except (package.SafetensorError, ValueError, RuntimeError, AttributeError) as err:
        raise UserError(
            f"{source}: is damaged or not a safetensors file ({err}): copy it again"
        ) from err


def read_safetensors_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a safetensors file as a checkpoint; the tensors are under the key ``model``.

    Raises:
        UserError: as `read_safetensors`, or if the metadata is not valid JSON.
    """
    source = os.fspath(path)
    tensors, metadata = read_safetensors(source)
    try:
        values = {name: json.loads(metadata[name]) for name in _METADATA_KEYS if name in metadata}
        for name in _BY_CATEGORY_ID:
            if name in values:
                values[name] = {int(k): v for k, v in values[name].items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as err:
        raise UserError(f"{source}: its metadata is invalid ({err}): convert it again") from err
    return {**values, "model": tensors}


def safetensors_bytes(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Encode a safetensors file.

    Args:
        state: tensors by name; they may share memory.
    """
    _package("the file")
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    # Hugging Face requires "format".
    content: bytes = save(plain, {"format": "pt", **metadata})
    return content


def checkpoint_metadata(checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """Metadata from which `read_safetensors_checkpoint` restores all keys but the weights.

    Raises:
        UserError: if an entry is not valid JSON.
    """
    metadata = {}
    for name in _METADATA_KEYS:
        if name in checkpoint:
            try:
                metadata[name] = json.dumps(checkpoint[name])
            except (TypeError, ValueError, RecursionError) as err:
                raise UserError(f"the entry {name} cannot be written as JSON ({err})") from err
    return metadata


def _package(source: str) -> Any:
    """Import safetensors on demand, because torch.hub models do not need it."""
    try:
        import safetensors
    except ImportError:
        raise UserError(f"{source}: safetensors files require: pip install safetensors") from None
    return safetensors

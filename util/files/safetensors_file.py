"""Weights in safetensors files: tensors by name, and what a checkpoint says beside them as text."""

import json
import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from util.errors import UserError

SUFFIX = ".safetensors"
# What a checkpoint says beside the weights, kept as JSON.
_NOTES = ("args", "categories", "is_thing", "epoch")
_BY_CATEGORY_ID = ("categories", "is_thing")


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file.

    Returns:
        tensors by name on the CPU, and the metadata.

    Raises:
        UserError: no such file, not a whole safetensors file, or the package is not installed.
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
    """Read a file as a checkpoint: its tensors are the ``model``.

    Raises:
        UserError: as `read_safetensors`, or its notes are not JSON.
    """
    source = os.fspath(path)
    tensors, metadata = read_safetensors(source)
    try:
        notes = {name: json.loads(metadata[name]) for name in _NOTES if name in metadata}
        for name in _BY_CATEGORY_ID:
            if name in notes:
                notes[name] = {int(k): v for k, v in notes[name].items()}
    except (ValueError, AttributeError, RecursionError) as err:
        raise UserError(f"{source}: its metadata is not ours ({err}): convert it again") from err
    return {**notes, "model": tensors}


def safetensors_bytes(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The content of a safetensors file.

    Args:
        state: tensors; views and such as share memory are copied.
        metadata: text by name.
    """
    _package("the file")
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    # "format" is what Hugging Face's reader asks for.
    content: bytes = save(plain, {"format": "pt", **metadata})
    return content


def checkpoint_metadata(checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """What `read_safetensors_checkpoint` finds again beside the weights."""
    return {name: json.dumps(checkpoint[name]) for name in _NOTES if name in checkpoint}


def _package(source: str) -> Any:
    """The package, imported when it is needed: models also load without it (torch.hub)."""
    try:
        import safetensors
    except ImportError:
        raise UserError(f"{source}: safetensors files need: pip install safetensors") from None
    return safetensors

"""Reading and writing safetensors files: tensors by name and text by name, never code.

A file is the length of the header (8 bytes, little-endian), the header (JSON: for each tensor its
dtype, shape and place in the data, and under ``__metadata__`` text by name), and the data.

Source: https://huggingface.co/docs/safetensors (format)
"""

import json
import math
import os
from collections.abc import Mapping
from typing import IO, Any

import torch
from torch import Tensor

from util.errors import UserError

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_METADATA = "__metadata__"
_ALIGNMENT = 8
_LONGEST_HEADER = 100_000_000


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file.

    Returns:
        tensors by name on the CPU, and the metadata.

    Raises:
        UserError: no such file, or not a whole safetensors file.
    """
    source = os.fspath(path)
    try:
        with open(source, "rb") as file:
            header = _read_header(file)
            data = bytearray(file.read())
        metadata = {str(name): str(text) for name, text in dict(header.pop(_METADATA, {})).items()}
        tensors = {name: _tensor(entry, data) for name, entry in header.items()}
        if sum(t.numel() * t.element_size() for t in tensors.values()) != len(data):
            raise ValueError("the data has another length than the header says")
    except OSError as err:
        raise UserError(
            f"{source}: cannot be read ({err.strerror}): give the path of a safetensors file"
        ) from err
    except (
        ValueError,
        TypeError,
        KeyError,
        RuntimeError,
    ) as err:  # too deep JSON is a RuntimeError
        raise UserError(
            f"{source}: is damaged or not a safetensors file ({err}): copy it again"
        ) from err
    return tensors, metadata


def _read_header(file: IO[bytes]) -> dict[str, Any]:
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= _LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")
    return header


def _tensor(entry: Mapping[str, Any], data: bytearray) -> Tensor:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"dtype {entry['dtype']} is not known")
    dtype, shape = _DTYPES[entry["dtype"]], [int(size) for size in entry["shape"]]
    begin, end = entry["data_offsets"]
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or not 0 <= begin <= end <= len(data) or end - begin != size:
        raise ValueError(f"{end - begin} bytes of {len(data)} for a tensor of shape {shape}")
    if size == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data[begin:end], dtype=dtype).reshape(shape)


def write_safetensors(
    file: IO[bytes], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors and text into a file that is open for writing bytes.

    Raises:
        ValueError: a dtype that the format does not have.
    """
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise ValueError(f"{name}: safetensors files have no {tensor.dtype}")
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        flat = tensor.detach().cpu().contiguous().flatten()
        file.write(flat.view(torch.uint8).numpy().tobytes())

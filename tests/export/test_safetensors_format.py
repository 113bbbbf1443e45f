"""safetensors files, against the safetensors package where it is installed."""

import json

import pytest
import torch

from export.safetensors_format import _DTYPES, read_safetensors, write_safetensors
from util.errors import UserError

TENSORS = {
    "weight": torch.arange(6.0).view(2, 3),
    "turned": torch.arange(6.0).view(2, 3).t(),  # not contiguous
    "scalar": torch.tensor(3, dtype=torch.int64),
    "empty": torch.zeros(0, 4),
    "flags": torch.tensor([True, False, True]),  # three bytes: what follows is not aligned
    **{f"of {name}": torch.arange(5).to(dtype) for name, dtype in _DTYPES.items()},
}


def write(path, tensors=TENSORS, metadata=None):
    with open(path, "wb") as file:
        write_safetensors(file, tensors, metadata or {})
    return path


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def test_what_is_written_is_read(tmp_path):
    tensors, metadata = read_safetensors(write(tmp_path / "f", metadata={"note": "ä"}))
    assert_same(tensors, TENSORS)
    assert metadata == {"note": "ä"}


def test_tensors_do_not_share_memory(tmp_path):
    tensors, _ = read_safetensors(write(tmp_path / "f"))
    tensors["weight"].zero_()
    assert torch.equal(tensors["turned"], TENSORS["turned"])


def test_a_file_without_tensors(tmp_path):
    assert read_safetensors(write(tmp_path / "f", {})) == ({}, {})


def test_the_package_reads_what_we_write(tmp_path):
    package = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    assert_same(package.load_file(write(tmp_path / "f")), TENSORS)


def test_we_read_what_the_package_writes(tmp_path):
    package = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    contiguous = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    package.save_file(contiguous, tmp_path / "f", {"format": "pt"})
    tensors, metadata = read_safetensors(tmp_path / "f")
    assert_same(tensors, TENSORS)
    assert metadata == {"format": "pt"}


def file_with_header(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"x": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b"{", b""),
        (b"[]", b""),
        (entry(), b"\0" * 3),  # cut short
        (entry(), b"\0" * 5),  # data that belongs to nothing
        (entry(dtype="F9"), b"\0" * 4),
        (entry(shape=(2,)), b"\0" * 4),
        (entry(shape=(-1,)), b"\0" * 4),
        (entry(offsets=(-4, 0)), b"\0" * 4),
        (entry(shape=(-1, -1)), b"\0" * 4),
        (entry(shape=(10**15,)), b"\0" * 4),  # no memory is taken for it
        (entry(offsets=(4, 0)), b"\0" * 4),
        (entry(offsets=("0", "4")), b"\0" * 4),
        (b"[" * 100_000, b""),
        ({"__metadata__": 3}, b""),
        ({"x": {}}, b""),
        ({"x": 3}, b""),
    ],
)
def test_a_damaged_file_is_an_error_in_one_line(tmp_path, header, data):
    path = file_with_header(tmp_path / "f", header, data)
    with pytest.raises(UserError, match="is damaged or not a safetensors file") as caught:
        read_safetensors(path)
    assert str(path) in caught.value.one_line()


def test_a_foreign_file_and_a_missing_one(tmp_path):
    (tmp_path / "short").write_bytes(b"abc")
    (tmp_path / "zip").write_bytes(b"PK\3\4" * 100)
    for name in ("short", "zip"):
        with pytest.raises(UserError, match="damaged"):
            read_safetensors(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        read_safetensors(tmp_path / "missing")


def test_a_dtype_that_the_format_lacks(tmp_path):
    with pytest.raises(ValueError, match="complex"):
        write(tmp_path / "f", {"x": torch.zeros(1, dtype=torch.complex64)})

"""safetensors files as checkpoints."""

import json

import pytest
import torch

from util.errors import UserError
from util.files.checkpoint_file import load_checkpoint
from util.files.safetensors_file import checkpoint_metadata, read_safetensors, safetensors_bytes

TENSORS = {
    "weight": torch.arange(6.0).view(2, 3),
    "turned": torch.arange(6.0).view(2, 3).t(),  # not contiguous
    "scalar": torch.tensor(3, dtype=torch.int64),
    "empty": torch.zeros(0, 4),
    "half": torch.arange(5).to(torch.bfloat16),
}

BY_ID = {"categories": {3: "dog"}, "is_thing": {3: True, 5: False}}


def write(path, metadata=None):
    path.write_bytes(safetensors_bytes(TENSORS, metadata or {}))
    return path


def test_what_is_written_is_read(tmp_path):
    tensors, metadata = read_safetensors(write(tmp_path / "f.safetensors", {"note": "ä"}))
    assert tensors.keys() == TENSORS.keys() and metadata == {"format": "pt", "note": "ä"}
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)


def test_a_checkpoint_keeps_flags_and_names(tmp_path):
    notes = checkpoint_metadata({"args": {"hidden_dim": 8}, **BY_ID, "optimizer": 1})
    checkpoint = load_checkpoint(write(tmp_path / "f.safetensors", notes))
    assert checkpoint.pop("args") == {"hidden_dim": 8}
    assert checkpoint == {**BY_ID, "model": checkpoint["model"]}
    assert torch.equal(checkpoint["model"]["weight"], TENSORS["weight"])


def test_notes_that_are_not_ours(tmp_path):
    path = write(tmp_path / "f.safetensors", {"args": "{", "categories": "[]"})
    with pytest.raises(UserError, match="its metadata is invalid"):
        load_checkpoint(path)


def header(content):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        header(b"{"),
        header({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),  # no data
        header({"x": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4]}}) + b"abcd",
        (2**63).to_bytes(8, "little") + b"{}",
    ],
)
def test_damaged_files(tmp_path, content):
    (tmp_path / "f.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="is damaged or not a safetensors file"):
        load_checkpoint(tmp_path / "f.safetensors")


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(tmp_path / "none.safetensors")

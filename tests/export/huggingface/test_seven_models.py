"""The released architectures at full size with random weights: to Hugging Face, and back."""

import pytest
import torch

from export.huggingface.command import run
from export.source import HUB_MODELS, from_hub
from export.weights import read_weights

FEW = ["--check_sizes", "96x128", "--check_batches", "1", "2"]


@pytest.mark.full
@pytest.mark.parametrize("name", HUB_MODELS)
def test_there_and_back(name, tmp_path, capsys):
    pytest.importorskip("transformers", reason="transformers is not installed")
    folder, back = tmp_path / "theirs", tmp_path / "back.safetensors"
    assert run(["to", "--hub", name, "--output", str(folder), *FEW]) == 0
    assert run(["from", str(folder), "--output", str(back), *FEW]) == 0
    assert capsys.readouterr().out.count("overall: scores") == 2
    found, expected = read_weights(back)["model"], from_hub(name, None).model.state_dict()
    kept = {k: v for k, v in expected.items() if not k.endswith(".num_batches_tracked")}
    assert found.keys() == kept.keys()
    assert all(torch.equal(found[key], value) for key, value in kept.items())

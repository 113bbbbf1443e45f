"""Available devices, and errors for the others."""

import pytest
import torch

from util.errors import UserError
from util.system.devices import check_device, parse_device


def refusal(name):
    with pytest.raises(UserError) as caught:
        check_device(name)
    message = str(caught.value)
    assert message.startswith(f"--device {name}: ") and len(message) < 160
    assert "cpu" in message or "cuda:0" in message
    return message


def test_the_cpu_is_there():
    assert parse_device("cpu").type == "cpu"
    check_device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda0", "cuda:", "0,1", "", "GPU:0"])
def test_what_is_no_device(name):
    assert "unknown device type; use --device cpu, --device cuda" in refusal(name)


def test_devices_of_other_makers():
    assert "PyTorch cannot compute on meta here" in refusal("meta")


def test_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no GPU is available" in refusal("cuda")


@pytest.mark.parametrize(
    ("count", "there"), [(1, "available: cuda:0"), (4, "available: cuda:0 to cuda:3")]
)
def test_gpus_that_are_there_are_named(monkeypatch, count, there):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert there in refusal("cuda:9")

"""`--amp auto` on simulated processors and GPUs; warnings about emulated precisions."""

import contextlib

import pytest
import torch

from util.system import precision
from util.system.precision import Precision, choose_precision, describe_amp, has_fast_bf16

CPU, GPU = torch.device("cpu"), torch.device("cuda:1")


@pytest.fixture
def processor(monkeypatch):
    """Sets instructions of the processor, and what oneDNN supports (None: no such operator)."""

    def pretend(avx512_bf16=False, amx=False, onednn=None):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        kernels = {"bf16": onednn, "fp16": onednn}
        monkeypatch.setattr(precision, "_onednn_supports", lambda amp: kernels[amp])

    return pretend


@pytest.fixture
def gpu(monkeypatch):
    def pretend(has_bf16):
        def is_bf16_supported(including_emulation=True):
            return has_bf16 or including_emulation

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
        monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)

    return pretend


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ({"onednn": False}, "off"),  # AVX2
        ({"onednn": True}, "off"),  # AVX-512 or AVX-NE-CONVERT without products; ARM
        ({"avx512_bf16": True, "onednn": True}, "bf16"),
        ({"avx512_bf16": True, "amx": True, "onednn": True}, "bf16"),
        ({"amx": True, "onednn": None}, "bf16"),  # a build without the private operator
        ({"avx512_bf16": True, "onednn": False}, "off"),  # no oneDNN, or limited by its variable
    ],
)
def test_auto_on_processors(processor, instructions, expected):
    processor(**instructions)
    choice = choose_precision("auto", CPU)
    assert choice.amp == expected and not choice.warning
    has = "has fast bf16" if expected == "bf16" else "has no fast bf16"
    assert choice.auto_reason == f"this processor {has}"


def test_a_torch_without_the_private_functions(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert not has_fast_bf16(CPU)
    assert precision._onednn_supports("no_such_precision") is None


@pytest.mark.parametrize(("machine", "expected"), [("x86_64", False), ("arm64", None)])
def test_a_torch_without_onednn(monkeypatch, machine, expected):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert precision._onednn_supports("bf16") is expected


@pytest.mark.parametrize("supported", [True, False])
def test_the_choice_agrees_with_the_private_operator(monkeypatch, supported):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    monkeypatch.setattr(precision, "_has_bf16_products", lambda: True)
    assert precision._onednn_supports("bf16") is supported
    assert has_fast_bf16(CPU) is supported


def test_the_private_operator_of_this_torch_is_found():
    if torch.backends.mkldnn.is_available():
        assert precision._onednn_supports("bf16") in (True, False)


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "off")])
def test_auto_on_gpus(gpu, has_bf16, expected):
    gpu(has_bf16)
    choice = choose_precision("auto", GPU)
    assert choice.amp == expected and choice.auto_reason.startswith("this GPU has ")


def test_auto_on_other_devices():
    choice = choose_precision("auto", torch.device("mps"))
    assert choice == Precision("off", "device mps has no fast bf16")


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_a_slow_precision_is_used_with_a_warning(processor, amp):
    processor(onednn=False)
    choice = choose_precision(amp, CPU)
    assert choice.amp == amp and not choice.auto_reason
    for words in (f"--amp {amp} is many times slower than --amp off", "use --amp auto"):
        assert words in choice.warning
    assert "\n" not in choice.warning


@pytest.mark.parametrize("onednn", [True, None])
def test_no_warning_without_knowledge(processor, onednn):
    processor(onednn=onednn)
    assert [choose_precision(amp, CPU).warning for amp in ("off", "bf16", "fp16")] == [""] * 3


def test_full_precision_needs_no_warning(processor):
    processor(onednn=False)
    assert choose_precision("off", CPU) == Precision("off")


def test_a_gpu_that_emulates_bf16(gpu):
    gpu(has_bf16=False)
    assert "emulates them; use --amp fp16" in choose_precision("bf16", GPU).warning
    assert not choose_precision("fp16", GPU).warning and not choose_precision("off", GPU).warning
    gpu(has_bf16=True)
    assert choose_precision("bf16", GPU) == Precision("bf16")


def test_other_values_are_errors():
    with pytest.raises(ValueError, match="got 'bf-16'"):
        choose_precision("bf-16", CPU)


def test_descriptions():
    assert [describe_amp(amp) for amp in ("off", "bf16", "fp16")] == [
        *("float32", "bfloat16 (--amp bf16)", "float16 (--amp fp16)")
    ]
    assert str(Precision("off", "of X")) == "float32 (--amp auto: of X)"

"""Choose the precision of ``--amp auto``; warn about emulated precisions."""

import platform
from dataclasses import dataclass

import torch

_DTYPES = {"off": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Precision:
    """Precision in which the model computes.

    Attributes:
        amp: ``off``, ``bf16`` or ``fp16``, see `engine.forward_pass`.
        auto_reason: why ``--amp auto`` chose ``amp``; empty if the flag gave ``amp`` itself.
        warning: why ``amp`` is slow on this device; empty if it is not known to be slow.
    """

    amp: str
    auto_reason: str = ""
    warning: str = ""

    def __str__(self) -> str:
        """For example ``float32 (--amp auto: this processor has no fast bf16)``."""
        return describe_amp(self.amp, self.auto_reason)


def describe_amp(amp: str, auto_reason: str = "") -> str:
    """Describe a precision: its data type, and the flag.

    Args:
        amp: ``off``, ``bf16`` or ``fp16``.
        auto_reason: why ``--amp auto`` chose it; empty: given by the flag.
    """
    if auto_reason:
        return f"{_DTYPES[amp]} (--amp auto: {auto_reason})"
    return _DTYPES[amp] if amp == "off" else f"{_DTYPES[amp]} (--amp {amp})"


def choose_precision(amp: str, device: torch.device) -> Precision:
    """Resolve ``--amp``: ``auto`` becomes ``bf16`` if the device computes it fast, else ``off``.

    Args:
        amp: ``off``, ``bf16``, ``fp16`` or ``auto``.

    Raises:
        ValueError: if ``amp`` has another value.
    """
    if amp == "auto":
        is_fast, where = has_fast_bf16(device), _name_of(device)
        reason = f"{where} has fast bf16" if is_fast else f"{where} has no fast bf16"
        return Precision("bf16" if is_fast else "off", reason)
    if amp not in _DTYPES:
        raise ValueError(f"expected amp off, bf16, fp16 or auto, got {amp!r}")
    return Precision(amp, warning=_warning(amp, device))


def has_fast_bf16(device: torch.device) -> bool:
    """Whether a device is known to compute bf16 faster than float32.

    - CPUs: x86 with the products of AVX-512 BF16 or AMX, through oneDNN. With older AVX-512 or with
      AVX-NE-CONVERT alone, oneDNN converts each value to float32. On ARM it has not been measured.
    - GPUs: compute capability 8.0 (Ampere) or higher; with ROCm all.
    - Other devices: False.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _has_bf16_products() and _onednn_supports("bf16") is not False


def has_amx() -> bool:
    """Whether PyTorch finds Intel's matrix instructions (AMX) on this processor."""
    # Private functions, here and below, present in all versions that requirements.txt allows.
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


def _has_bf16_products() -> bool:
    """Whether PyTorch finds AVX-512 BF16 or AMX on this processor."""
    return has_amx() or bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


def _onednn_supports(amp: str) -> bool | None:
    """Whether oneDNN has kernels for a precision on this processor; None: unknown.

    Without them PyTorch runs its reference kernels. ``ONEDNN_MAX_CPU_ISA`` is respected.
    """
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        # macOS on ARM has no oneDNN, and kernels of its own.
        return False if platform.machine() in ("x86_64", "AMD64") else None
    try:
        # A private operator, which may be missing in another build.
        return bool(getattr(torch.ops.mkldnn, f"_is_mkldnn_{amp}_supported")())
    except (AttributeError, RuntimeError):
        return None


def _warning(amp: str, device: torch.device) -> str:
    where = _name_of(device)
    if device.type == "cpu" and amp != "off" and _onednn_supports(amp) is False:
        return (
            f"--amp {amp} is many times slower than --amp off here: {where} has no fast {amp}; "
            "use --amp auto, which computes in bf16 only where that is fast"
        )
    if device.type == "cuda" and amp == "bf16" and not has_fast_bf16(device):
        return (
            f"--amp bf16: {where} has no bf16 instructions and emulates them; use --amp fp16, or "
            "--amp auto, which computes in bf16 only where that is fast"
        )
    return ""


def _name_of(device: torch.device) -> str:
    return {"cpu": "this processor", "cuda": "this GPU"}.get(device.type, f"device {device.type}")

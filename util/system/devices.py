"""Parse and check ``--device``; TF32."""

import torch

from util.errors import UserError

_HINT = "use --device cpu, --device cuda, or a single GPU such as --device cuda:0"


def parse_device(name: str) -> torch.device:
    """Parse a device name, without checking that the device is available.

    Raises:
        UserError: if PyTorch does not know the device type.
    """
    try:
        return torch.device(name)
    except (RuntimeError, ValueError):  # PyTorch's message lists some twenty device types
        raise UserError(f"--device {name}: unknown device type; {_HINT}") from None


def check_device(name: str) -> None:
    """Check that a device is available. In a distributed run call this after `connected`.

    Raises:
        UserError: if the device is not available.
    """
    device = parse_device(name)
    if device.type == "cuda":
        _check_cuda(device)
    try:
        torch.empty(1, device=device).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as err:
        if device.type == "cuda":
            reason = str(err).splitlines()[0]
        else:
            reason = f"PyTorch cannot compute on {device.type} here"
        raise UserError(f"--device {name}: {reason}; --device cpu works everywhere") from err


def _check_cuda(device: torch.device) -> None:
    if not torch.cuda.is_available():
        built = "" if torch.backends.cuda.is_built() else " (this PyTorch is built without CUDA)"
        raise UserError(f"--device {device}: no GPU is available{built}; use --device cpu")
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        existing = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise UserError(f"--device {device}: no such GPU; available: {existing}")


def use_tf32(device: torch.device) -> None:
    """Enable TF32 for float32 matrix products and cuDNN convolutions in this process.

    Operands are rounded to a 10-bit mantissa (relative error up to 5e-4); sums are float32.

    Raises:
        UserError: if the GPU has no TF32.
    """
    if torch.cuda.get_device_capability(device) < (8, 0):
        name = torch.cuda.get_device_name(device)
        raise UserError(f"--tf32: {name} has no TF32 (NVIDIA GPUs have it since Ampere); omit it")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True

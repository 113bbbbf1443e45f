"""The value of ``--device``: whether it names a device, and whether that device is there."""

import torch

from util.errors import UserError

_WAY_OUT = "give --device cpu, --device cuda, or one GPU by its number as in --device cuda:0"


def parse_device(name: str) -> torch.device:
    """The device of a flag; it need not be there.

    Raises:
        UserError: the name is not a device name.
    """
    try:
        return torch.device(name)
    except (RuntimeError, ValueError):  # PyTorch's message lists some twenty device types
        raise UserError(f"--device {name}: there is no such kind of device; {_WAY_OUT}") from None


def check_device(name: str) -> None:
    """Refuse a device that is not there. In a distributed run: after each rank has its GPU.

    Raises:
        UserError: names the device and why it cannot be used.
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
        raise UserError(f"--device {device}: no GPU is available{built}; give --device cpu")
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        there = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise UserError(f"--device {device}: there is no such GPU, only {there}; give one of them")

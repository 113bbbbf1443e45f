"""Resolve ``--amp auto`` for a run: the same precision on all ranks, saved for resuming."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from training.checkpoint import flags_in
from training.resume import Start
from util.distributed.processes import all_gather
from util.system.precision import Precision, choose_precision


def agree_on_precision(amp: str, device: str, start: Start) -> Precision:
    """Resolve ``--amp``, and print what is slow or has changed. Collective: call on every rank.

    With ``auto``, all ranks compute in bf16 only if it is fast on every rank.

    Args:
        amp: value of the flag.
        device: name of this rank's device.
        start: the checkpoints; a resumed run may have computed in a different precision.
    """
    precision = _of_all_ranks(all_gather(choose_precision(amp, torch.device(device))))
    if precision.warning:
        print(f"Warning: {precision.warning}")
    if precision.auto_reason and start.resume is not None:
        before = flags_in(start.resume.content, start.resume.path).get("amp")
        if before in ("off", "bf16", "fp16") and before != precision.amp:
            print(
                f"{start.resume.path} was trained with --amp {before}, now {precision}; results "
                "may differ by rounding"
            )
    return precision


def _of_all_ranks(choices: list[Precision]) -> Precision:
    """The choice of the first rank without fast bf16, if there is one; else of rank 0."""
    rank = next((rank for rank, choice in enumerate(choices) if _is_slow(choice)), 0)
    choice = choices[rank]
    if rank == 0:
        return choice
    if choice.warning:
        return replace(choice, warning=f"rank {rank}: {choice.warning}")
    return replace(choice, auto_reason=f"rank {rank}: {choice.auto_reason}")


def _is_slow(choice: Precision) -> bool:
    return bool(choice.warning or (choice.auto_reason and choice.amp == "off"))


def with_flag_as_given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags of a run by name, with ``amp`` as given: ``auto`` where it was resolved from that.

    Args:
        flags: ``amp`` is resolved; ``amp_auto`` is missing, or the reason of ``--amp auto``.
    """
    return {**flags, "amp": "auto"} if flags.get("amp_auto") else dict(flags)

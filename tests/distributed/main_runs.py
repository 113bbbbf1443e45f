"""Runs of main.py in two connected processes."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from tests.test_main import run_simple as run
from training import loop
from util.distributed.processes import get_rank


class MainRuns:
    """Runs one after the other in folders below ``folder``; to be made in each process.

    Attributes:
        statuses: exit status of each run.
    """

    def __init__(self, data: Path, folder: Path) -> None:
        self._data, self._folder, self._rank = data, folder, get_rank()
        self.statuses: list[int] = []
        dist.destroy_process_group()  # each run connects for itself
        os.environ |= {"RANK": str(self._rank), "LOCAL_RANK": str(self._rank), "WORLD_SIZE": "2"}

    def add(self, name: str, *flags: Any) -> None:
        """Run with the output folder ``name``."""
        rendezvous = f"file://{self._folder}/rendezvous{len(self.statuses)}"
        flags = (*flags, "--output_dir", self._folder / name, "--dist_url", rendezvous)
        self.statuses.append(run(self._data, *flags))
        if dist.is_initialized():
            dist.destroy_process_group()

    @contextlib.contextmanager
    def interrupted(self, step: int, number: int) -> Iterator[None]:
        """Send a signal to the second process in its n-th step."""
        original, steps = loop.Run._after_step, []

        def after_step(run: Any, *args: Any) -> None:
            steps.append(1)
            if self._rank == 1 and len(steps) == step:
                os.kill(os.getpid(), number)
            original(run, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop.Run, "_after_step", after_step)
            yield

"""What runs of main.py leave out in tests: most of the time of a run on tiny data."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_PICTURES = ("draw_detections", "draw_panoptic_maps")


@contextmanager
def cheap_runs() -> Iterator[None]:
    """Runs in this process write no report and no pictures, and do not wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("report.at_end.write_report_at_end", lambda *args: None)
        for name in _PICTURES:
            patch.setattr(f"training.evaluation.{name}", lambda *args: None)
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@contextmanager
def with_pictures() -> Iterator[None]:
    """Runs in this process draw their pictures nevertheless."""
    from training import evaluation_output  # here: conftest.py imports this file without PyTorch

    with pytest.MonkeyPatch.context() as patch:
        for name in _PICTURES:
            patch.setattr(f"training.evaluation.{name}", getattr(evaluation_output, name))
        yield

"""Silence for exporters that talk about their own insides."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

_TALKATIVE = ("onnxscript", "onnx_ir", "torch.onnx")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings, and log messages short of an error, of PyTorch's exporters.

    They announce their own deprecations and missed optimisations, which nobody can act on; whether
    the result is right shows in the check.
    """
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

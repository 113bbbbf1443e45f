"""Suppress warnings and log messages of PyTorch's exporters."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

_LOGGERS = ("onnxscript", "onnx_ir", "torch.onnx", "")  # "": quantization logs to the root


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings, and log messages below the level ERROR.

    The exporters report deprecations and missed optimizations in their own code, which users cannot
    fix. `export.check` verifies the exported model.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

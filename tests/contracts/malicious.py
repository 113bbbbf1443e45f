"""A checkpoint that would run code, and everything of ours that reads a file: they refuse it.

A new command that reads checkpoints adds itself to `READERS`.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import hubconf
from examples import attention, detect, panoptic
from export import onnx, program, torchscript, weights
from export.huggingface import command as huggingface
from tests.test_main import run
from training import nonfinite as replay
from util.files.checkpoint_file import load_checkpoint
from util.plot_utils import plot_precision_recall


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.path}",))


def write_bomb(path: Path, creates: Path) -> Path:
    """Write a checkpoint in every respect like ours, but for one entry."""
    torch.save({"model": {}, "epoch": 0, "args": {}, "extra": Bomb(creates)}, path)
    return path


def _auto_resume(data: Path, file: Path, *flags: str) -> Any:
    file.with_name("checkpoint.pth").write_bytes(file.read_bytes())
    return run(data, "--auto_resume", "--output_dir", file.parent, *flags)


# Name -> called with a data directory and the file; ends with status 2 or a UserError.
READERS: dict[str, Callable[[Path, Path], Any]] = {
    "main --resume": lambda data, file: run(data, "--resume", file),
    "main --eval --resume": lambda data, file: run(data, "--eval", "--resume", file),
    "main --resume file://": lambda data, file: run(data, "--resume", f"file://{file}"),
    "main --eval --auto_resume": lambda data, file: _auto_resume(data, file, "--eval"),
    "main --finetune": lambda data, file: run(data, "--finetune", file),
    "main --frozen_weights": lambda data, file: run(data, "--masks", "--frozen_weights", file),
    "main --auto_resume": _auto_resume,
    "main --backbone_weights": lambda data, file: run(data, "--backbone_weights", file),
    "main --masks --backbone_weights": lambda data, file: run(
        data, "--masks", "--backbone_weights", file
    ),
    "forensics": lambda data, file: replay.run([str(file)]),
    "load_checkpoint": lambda data, file: load_checkpoint(file),
    "plot_precision_recall": lambda data, file: plot_precision_recall([file]),
    "hub backbone_weights": lambda data, file: hubconf.detr_resnet50(backbone_weights=str(file)),
    "export.onnx": lambda data, file: onnx.run(_export_flags(file, "x.onnx")),
    "export.torchscript": lambda data, file: torchscript.run(_export_flags(file, "x.ts")),
    "export.program": lambda data, file: program.run(_export_flags(file, "x.pt2")),
    "export.huggingface": lambda data, file: huggingface.run(["to", *_export_flags(file, "x")]),
    "export.huggingface from": lambda data, file: _from_huggingface(file),
    "export.weights": lambda data, file: weights.run([str(file), str(file.with_name("x.pth"))]),
    "examples.detect": lambda data, file: detect.main([*_image(data), "--checkpoint", str(file)]),
    "examples.attention": lambda data, file: attention.main(
        [*_image(data), "--checkpoint", str(file)]
    ),
    "examples.panoptic": lambda data, file: panoptic.main(
        [*_image(data), "--checkpoint", str(file)]
    ),
}


def _from_huggingface(file: Path) -> Any:
    file.with_name("config.json").write_text('{"model_type": "detr"}')
    file.with_name("pytorch_model.bin").write_bytes(file.read_bytes())
    return huggingface.run(["from", str(file.parent), "--output", str(file.with_name("x.pth"))])


def _export_flags(file: Path, output: str) -> list[str]:
    return ["--checkpoint", str(file), "--output", str(file.with_name(output))]


def _image(data: Path) -> list[str]:
    return [str(next((data / "val2017").iterdir()))]

"""Print the table of docs/export.md: largest differences of exported models from PyTorch.

    python -m tests.export.differences [ROW …]

Every format is compared at three odd sizes, with batches of 1 and 3 padded images.
"""

import argparse
import contextlib
import io
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator

import torch
from torch import nn

from export import onnx, program, torchscript
from export.architecture import amplify_random_weights
from export.huggingface import command as huggingface
from models import build_model
from training.flags.arguments import get_args_parser

# Flags of main.py by row; None: detr_demo. All have random weights, and random batch norms.
ROWS: dict[str, str | None] = {
    "R18, pre-norm, learned positions, 4 heads, batch norm, 1 class": "--backbone resnet18 "
    "--pre_norm --position_embedding learned --nheads 4 --backbone_norm batch --num_classes 1",
    "R50": "",
    "R50 without auxiliary losses, 300 classes": "--no_aux_loss --num_classes 300",
    "R50 DC5": "--dilation",
    "R50 panoptic": "--masks --num_classes 250",
    "R50 DC5 panoptic, 250 classes": "--masks --dilation --num_classes 250",
    "`detr_demo`": None,
}
COMMANDS = {
    "ONNX": onnx.run,
    "TorchScript": torchscript.run,
    "torch.export": program.run,
    "Hugging Face": lambda argv: huggingface.run(["to", *argv]),
}
LIMIT = 1e-4
CHECK = ["--check_sizes", "97x131", "70x133", "131x66", "--check_batches", "1", "3"]


def differences(row: str, changes: str = "") -> Iterator[tuple[str, str]]:
    """Format and largest difference (or "not available") of a row.

    Args:
        changes: flags of main.py that replace those of the row.

    Raises:
        RuntimeError: an export has failed, or differs by more than `LIMIT`.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = ["--hub", "detr_demo"]
        flags = ROWS[row]
        if flags is not None:
            model = ["--checkpoint", f"{folder}/model.pth"]
            torch.save(checkpoint_of(f"{flags} {changes}"), model[1])
        for name, run in COMMANDS.items():
            if name == "Hugging Face" and (flags is None or "--pre_norm" in flags):
                yield name, "not available"
                continue
            argv = [*model, "--output", f"{folder}/{name}", *CHECK, "--tolerance", str(LIMIT)]
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = run(argv)
            if status != 0:
                raise RuntimeError(f"{row}, {name}: status {status}: {err.getvalue()}")
            overall = out.getvalue().split("overall:")[1].splitlines()[0]
            yield name, f"{max(map(float, re.findall(r'[0-9.]+e[+-][0-9]+', overall))):.0e}"


def checkpoint_of(flags: str) -> dict[str, object]:
    """A checkpoint as main.py writes it, of a model with random weights."""
    parser = argparse.ArgumentParser(parents=[get_args_parser()])
    args = parser.parse_args([*shlex.split(flags), "--backbone_weights", "none", "--device", "cpu"])
    if args.num_classes is None:
        args.num_classes = 91
    torch.manual_seed(0)
    model: nn.Module = build_model(args)[0]
    amplify_random_weights(model)
    for name, value in model.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(std=0.02)
        elif name.endswith("running_var"):
            value.uniform_(0.9, 1.1)
    return {"model": model.state_dict(), "args": vars(args), "epoch": 0}


def main() -> None:
    """Print the table, row by row."""
    print(f"| model | {' | '.join(COMMANDS)} |")
    print(f"|--|{'--|' * len(COMMANDS)}")
    for row in sys.argv[1:] or ROWS:
        print(f"| {row} | {' | '.join(text for _, text in differences(row))} |", flush=True)


if __name__ == "__main__":
    main()

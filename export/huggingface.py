"""Convert to and from Hugging Face's DETR: ``python -m export.huggingface --help``.

``to`` writes a folder that ``DetrForObjectDetection.from_pretrained`` (``DetrForSegmentation`` with
masks) loads offline; ``from`` reads such a folder into a checkpoint.
"""

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("python -m export.huggingface")

import argparse
import importlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.architecture import Architecture
from export.check import CheckFailedError, Exported
from export.command import (
    add_check_flags,
    check_as_asked,
    refuse_sizes,
    run_checked,
)
from export.detector import Detector
from export.huggingface_config import preprocessor_config, read_config, write_config
from export.huggingface_keys import from_huggingface, to_huggingface
from export.quiet import quiet
from export.source import Source, add_model_flags, source_of
from export.weights import (
    cannot_be_written,
    check_folder_of,
    check_output_file,
    write_safetensors_file,
    write_weights,
)
from models.weights import load_model_state, model_state
from util.cli.command_line import ArgumentParser, FlagGroup
from util.errors import UserError
from util.files.checkpoint import atomic_write, load_checkpoint
from util.files.safetensors_file import read_safetensors

_PROGRAM = "python -m export.huggingface"
_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"
_WEIGHTS, _OLD_WEIGHTS = "model.safetensors", "pytorch_model.bin"
_TOLERANCE = 1e-4


def write_folder(source: Source, folder: Path) -> None:
    """Write weights and configurations of a model.

    Args:
        source: the model.
        folder: is there already.

    Raises:
        UserError: they have no such model, or the folder cannot be written to.
    """
    state = source.model.state_dict()
    config = write_config(source.architecture, state, source.categories)
    theirs = to_huggingface(state, config["use_timm_backbone"], source.name)
    write_safetensors_file(folder / _WEIGHTS, theirs, {})
    preprocessor = preprocessor_config(
        source.architecture.masks, source.short_side, source.max_size
    )
    for name, content in ((_CONFIG, config), (_PREPROCESSOR, preprocessor)):
        with atomic_write(folder / name, "w") as file:
            json.dump(content, file, indent=2, ensure_ascii=False)


def read_folder(folder: Path) -> dict[str, Any]:
    """Read a folder of theirs as a checkpoint.

    Returns:
        ``model``: the weights under our key names; ``args``: the flags that decide on the model;
        ``categories``: names by category id.

    Raises:
        UserError: a file is missing, or not of a DETR that we have.
    """
    config = _read_config_file(folder / _CONFIG)
    told, categories = read_config(config, str(folder / _CONFIG))
    path = folder / _WEIGHTS
    if path.exists():
        theirs = read_safetensors(path)[0]
    else:
        path = folder / _OLD_WEIGHTS
        if not path.exists():
            raise UserError(f"{folder}: has neither {_WEIGHTS} nor {_OLD_WEIGHTS}")
        theirs = model_state(load_checkpoint(path), str(path))
    state = from_huggingface(theirs, str(path))
    architecture = Architecture.of(state, told, str(path))
    # All there, and of the right shapes.
    load_model_state(architecture.build(), state, str(path), flags_of_main=False)
    return {"model": state, "args": architecture.flags(), "categories": categories}


def _read_config_file(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise UserError(
            f"{path}: cannot be read ({err.strerror}): give a folder of a Hugging Face model"
        ) from err
    except ValueError as err:
        raise UserError(f"{path}: is not JSON ({err})") from err
    if not isinstance(config, dict):
        raise UserError(f"{path}: is not a JSON object")
    return config


def load_their_model(folder: Path) -> Exported:
    """Their model of a folder, called with our padding mask; outputs are raw.

    Raises:
        CheckFailedError: it does not take exactly the tensors in the folder.
    """
    transformers: Any = importlib.import_module("transformers")
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    kind = getattr(transformers, config["architectures"][0])
    with quiet():
        model, report = kind.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
    wrong = [key for side in ("missing_keys", "unexpected_keys") for key in report[side]]
    if wrong:
        raise CheckFailedError(f"transformers finds {len(wrong)} keys wrong, one is {wrong[0]}")
    model.eval()

    def run(images: Tensor, padding_mask: Tensor) -> dict[str, Tensor]:
        outputs = model(pixel_values=images, pixel_mask=(~padding_mask).long())  # 1: valid
        named = {"pred_logits": outputs.logits, "pred_boxes": outputs.pred_boxes}
        return named | ({"pred_masks": outputs.pred_masks} if "pred_masks" in outputs else {})

    return run


def _export(args: argparse.Namespace) -> None:
    """Write the folder beside, check it, and only then move its files where they belong."""
    output = Path(args.output)
    check_folder_of(args.output)
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file; give the name of a folder")
    source = source_of(args)
    refuse_sizes(args, 1, source.architecture.largest_side)
    try:
        _write_checked(source, output, args)
    except OSError as err:
        raise cannot_be_written(args.output, err) from err
    print(f"written to {output}")


def _write_checked(source: Source, output: Path, args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=".export-") as name:
        beside = Path(name)
        write_folder(source, beside)
        _check_round_trip(source.model.state_dict(), beside)
        _check_their_model(source, beside, args)
        output.mkdir(exist_ok=True)
        for file in sorted(beside.iterdir(), reverse=True):  # weights first, config.json last
            file.replace(output / file.name)


def _check_round_trip(state: Mapping[str, Tensor], folder: Path) -> None:
    back = read_folder(folder)["model"]
    ours = {key: v for key, v in state.items() if not key.endswith(".num_batches_tracked")}
    wrong = [key for key in ours if key not in back or not torch.equal(ours[key], back[key])]
    if wrong or len(back) != len(ours):
        raise CheckFailedError(f"{len(wrong)} tensors do not come back, such as {wrong[:1]}")
    print(f"{len(ours)} tensors come back bit for bit")


def _check_their_model(source: Source, folder: Path, args: argparse.Namespace) -> None:
    needed = ["transformers", *(["timm"] if source.architecture.dilation else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{' and '.join(missing)} not installed: their model is not compared with ours")
        return
    print("largest differences of their model from ours:")
    detector = Detector(source.model, raw=True).eval()
    differences = check_as_asked(detector, load_their_model(folder), args)
    print(f"  in all: {differences}")


def _import(args: argparse.Namespace) -> None:
    check_output_file(args.output)
    checkpoint = read_folder(Path(args.folder))
    write_weights(args.output, checkpoint)
    print(f"{len(checkpoint['model'])} tensors written to {args.output}")


def build_parser() -> ArgumentParser:
    """Flags of both directions."""
    parser = ArgumentParser(
        prog=_PROGRAM,
        description="Convert to and from Hugging Face's DETR, offline.",
        fromfile_prefix_chars="@",
    )
    directions = parser.add_subparsers(dest="direction", required=True)
    to = directions.add_parser("to", help="write a folder for transformers")
    add_model_flags(to)
    FlagGroup(to, "export").add("--output", "folder to write, made where missing", required=True)
    add_check_flags(to, _TOLERANCE)
    back = directions.add_parser("from", help="read such a folder into a checkpoint")
    back.add_argument("folder", help="has config.json and model.safetensors")
    FlagGroup(back, "import").add("--output", "file: .pth or .safetensors", required=True)
    return parser


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, see `export.command.run_export`."""

    def command() -> None:
        args = build_parser().parse_args(argv)
        (_export if args.direction == "to" else _import)(args)

    return run_checked(_PROGRAM, command)


if __name__ == "__main__":
    sys.exit(run())

"""Convert to and from Hugging Face's DETR: ``python -m export.huggingface --help``.

``to`` writes a folder for ``DetrForObjectDetection.from_pretrained`` (with masks:
``DetrForSegmentation``); ``from`` converts such a folder to a checkpoint.
"""

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("python -m export.huggingface")

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.architecture import FLAG_NAMES, Architecture
from export.check import CheckFailedError, Exported
from export.command import add_check_flags, check_with_flags, run_checked, sizes_to_check
from export.huggingface_config import (
    preprocessor_config,
    read_config,
    read_preprocessor,
    uses_timm,
    write_config,
)
from export.huggingface_keys import (
    from_huggingface,
    is_name_of_other_version,
    to_huggingface,
)
from export.quiet import quiet
from export.source import Source, add_model_flags, source_of
from export.staging import staged_files
from export.weights import (
    cannot_be_written,
    check_folder_of,
    check_output_file,
    write_safetensors_file,
    write_weights,
)
from export.wrapper import ExportWrapper, SizeHW
from models.segmentation import DETRsegm
from models.weights import load_model_state, model_state
from util.cli.command_line import ArgumentParser, FlagGroup
from util.errors import UserError
from util.files.checkpoint import atomic_write, check_replaceable, load_checkpoint
from util.files.safetensors_file import read_safetensors

_PROGRAM = "python -m export.huggingface"
_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"
_WEIGHTS, _OLD_WEIGHTS = "model.safetensors", "pytorch_model.bin"
_TOLERANCE = 1e-4


def write_folder(source: Source, folder: Path) -> None:
    """Write a model as a Hugging Face folder.

    Args:
        source: the model.
        folder: existing folder.

    Raises:
        UserError: Hugging Face has no equivalent model, or the folder cannot be written.
    """
    state = source.model.state_dict()
    config = write_config(source.architecture, state, source.categories, source.rows())
    theirs = to_huggingface(state, config["use_timm_backbone"], source.name)
    write_safetensors_file(folder / _WEIGHTS, theirs, {})
    preprocessor = preprocessor_config(
        source.architecture.masks, source.short_side, source.max_size
    )
    for name, content in ((_CONFIG, config), (_PREPROCESSOR, preprocessor)):
        with atomic_write(folder / name, "w") as file:
            json.dump(content, file, indent=2, ensure_ascii=False)


def read_folder(folder: Path) -> tuple[dict[str, Any], nn.Module]:
    """Read a Hugging Face folder as a checkpoint, and build its model.

    Returns:
        A checkpoint, and our model with its weights. The checkpoint has ``model``: the weights
        under our key names; ``args``: the flags of the architecture, and the image sizes ``scales``
        and ``max_size`` if the folder has them; ``categories``: names by category id;
        ``category_ids``, as in a checkpoint.

    Raises:
        UserError: a file is missing, or we have no equivalent model.
    """
    config = _read_json(folder / _CONFIG)
    flags, categories, category_ids = read_config(config, str(folder / _CONFIG))
    sizes = {}
    if (path := folder / _PREPROCESSOR).exists():
        sizes = read_preprocessor(_read_json(path), str(path))
    path = folder / _WEIGHTS
    if path.exists():
        theirs = read_safetensors(path)[0]
    else:
        path = folder / _OLD_WEIGHTS
        if not path.exists():
            raise UserError(f"{folder}: has neither {_WEIGHTS} nor {_OLD_WEIGHTS}")
        theirs = model_state(load_checkpoint(path), str(path))
    state = from_huggingface(theirs, str(path))
    architecture = Architecture.of(state, flags, str(path))
    model = architecture.build()
    load_model_state(model, state, str(path), flags_of_main=False)
    checkpoint = {
        "model": state,
        "args": architecture.flags() | sizes,
        "categories": categories,
        "category_ids": category_ids,
    }
    return checkpoint, model


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise UserError(
            f"{path}: cannot be read ({err.strerror}): give the folder of a Hugging Face model"
        ) from err
    except (ValueError, RecursionError) as err:
        raise UserError(f"{path}: is not JSON ({err})") from err
    if not isinstance(config, dict):
        raise UserError(f"{path}: is not a JSON object")
    return config


def load_huggingface_model(folder: Path, masks: bool) -> Exported:
    """Load the Hugging Face model of a folder; call it with our padding mask, outputs are raw.

    Args:
        folder: written by ``save_pretrained`` or `write_folder`.
        masks: load a segmentation model.

    Raises:
        CheckFailedError: the model cannot be loaded, or has missing or unexpected keys.
    """
    transformers: Any = importlib.import_module("transformers")
    kind = transformers.DetrForSegmentation if masks else transformers.DetrForObjectDetection
    try:
        with quiet():
            config = transformers.DetrConfig.from_pretrained(folder, local_files_only=True)
            config.use_pretrained_backbone = False  # no download: the folder has the weights
            model, report = kind.from_pretrained(
                folder, config=config, local_files_only=True, output_loading_info=True
            )
    except Exception as err:  # any of its packages may raise anything
        reason = " ".join(str(err).split())
        raise CheckFailedError(
            f"transformers {transformers.__version__} cannot load it ({reason})"
        ) from err
    unexpected = [
        key
        for key in report["unexpected_keys"]
        if not (key.endswith(".num_batches_tracked") or is_name_of_other_version(key))
    ]
    wrong = [*report["missing_keys"], *unexpected]
    if wrong:
        raise CheckFailedError(f"{len(wrong)} missing or unexpected keys, such as {wrong[0]}")
    model.eval()

    def run(images: Tensor, padding_mask: Tensor) -> dict[str, Tensor]:
        outputs = model(pixel_values=images, pixel_mask=(~padding_mask).long())  # 1: no padding
        named = {"pred_logits": outputs.logits, "pred_boxes": outputs.pred_boxes}
        return named | ({"pred_masks": outputs.pred_masks} if "pred_masks" in outputs else {})

    return run


def _export(args: argparse.Namespace) -> None:
    """Write to a temporary folder, check it, and move its files to --output."""
    output = Path(args.output)
    check_folder_of(args.output)
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file; give the name of a folder")
    for name in (_CONFIG, _PREPROCESSOR, _WEIGHTS):
        check_replaceable(output / name)
    source = source_of(args)
    sizes_hw = sizes_to_check(args, 1, source.architecture.largest_side)
    try:
        _write_checked(source, output, sizes_hw, args)
    except OSError as err:
        raise cannot_be_written(args.output, err) from err
    print(f"written to {output}")


def _write_checked(
    source: Source, output: Path, sizes_hw: Sequence[SizeHW], args: argparse.Namespace
) -> None:
    with staged_files(output) as folder:
        write_folder(source, folder)
        _check_round_trip(source.model.state_dict(), folder)
        _check_outputs(source.model, folder, sizes_hw, args)


def _check_round_trip(state: Mapping[str, Tensor], folder: Path) -> None:
    reread = read_folder(folder)[0]["model"]
    ours = {key: v for key, v in state.items() if not key.endswith(".num_batches_tracked")}
    wrong = [key for key in ours if key not in reread or not torch.equal(ours[key], reread[key])]
    if wrong or len(reread) != len(ours):
        raise CheckFailedError(f"{len(wrong)} tensors change in a round trip, such as {wrong[:1]}")
    print(f"{len(ours)} tensors are identical after a round trip")


def _check_outputs(
    model: nn.Module, folder: Path, sizes_hw: Sequence[SizeHW], args: argparse.Namespace
) -> None:
    """Compare our model with the one that transformers loads from a folder, if it is installed."""
    needed = ["transformers", *(["timm"] if uses_timm(_read_json(folder / _CONFIG)) else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{' and '.join(missing)} not installed: outputs are not compared")
        return
    print("largest differences between Hugging Face's model and ours:")
    theirs = load_huggingface_model(folder, isinstance(model, DETRsegm))
    differences = check_with_flags(ExportWrapper(model, raw=True).eval(), theirs, sizes_hw, args)
    print(f"  overall: {differences}")


def _import(args: argparse.Namespace) -> None:
    check_output_file(args.output)
    checkpoint, model = read_folder(Path(args.folder))
    architecture = Architecture(**{name: checkpoint["args"][name] for name in FLAG_NAMES})
    sizes_hw = sizes_to_check(args, 1, architecture.largest_side)
    _check_outputs(model, Path(args.folder), sizes_hw, args)
    write_weights(args.output, checkpoint)
    print(f"{len(checkpoint['model'])} tensors written to {args.output}")


def build_parser() -> ArgumentParser:
    """Create the parser with one subcommand per direction."""
    parser = ArgumentParser(
        prog=_PROGRAM,
        description="Convert to and from Hugging Face's DETR, offline.",
        fromfile_prefix_chars="@",
    )
    directions = parser.add_subparsers(dest="direction", required=True)
    to = directions.add_parser("to", help="write a Hugging Face folder")
    add_model_flags(to)
    FlagGroup(to, "export").add("--output", "folder to write, created if missing", required=True)
    add_check_flags(to, _TOLERANCE)
    back = directions.add_parser("from", help="convert a Hugging Face folder to a checkpoint")
    back.add_argument("folder", help="folder with config.json and model.safetensors")
    FlagGroup(back, "import").add("--output", "file: .pth or .safetensors", required=True)
    add_check_flags(back, _TOLERANCE)
    return parser


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, see `export.command.run_export`."""

    def command() -> None:
        args = build_parser().parse_args(argv)
        (_export if args.direction == "to" else _import)(args)

    return run_checked(_PROGRAM, command)


if __name__ == "__main__":
    sys.exit(run())

"""Write and read the folder of a Hugging Face model, with its image processor."""

import importlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from datasets.formats.held_out import NO_IMAGES
from datasets.loading.byte_images import Normalization
from export.architecture import Architecture
from export.check import CheckFailedError, Exported
from export.huggingface.config import (
    read_config,
    write_config,
)
from export.huggingface.entries import Entries, short
from export.huggingface.keys import (
    from_huggingface,
    is_name_of_other_version,
    to_huggingface,
)
from export.quiet import quiet
from export.source import Source
from export.weights import write_safetensors_file
from models.weights import load_model_state, model_state
from util.errors import UserError
from util.files.checkpoint_file import atomic_write, load_checkpoint
from util.files.safetensors_file import read_safetensors

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, OLD_WEIGHTS = "model.safetensors", "pytorch_model.bin"
_BILINEAR = 2  # Pillow's number of the filter
_SPLIT = "held_out_split"  # key in config.json, which transformers keeps; names are hashed
_NOT_NORMALIZED = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def write_folder(source: Source, folder: Path) -> None:
    """Write a model as a Hugging Face folder.

    Args:
        folder: existing folder.

    Raises:
        UserError: Hugging Face has no equivalent model, or the folder cannot be written.
    """
    state = source.model.state_dict()
    config = write_config(source.architecture, state, source)
    if source.split != NO_IMAGES:
        config[_SPLIT] = source.split.hashed().saved()
    theirs = to_huggingface(state, config["use_timm_backbone"], source.name)
    write_safetensors_file(folder / WEIGHTS, theirs, {})
    preprocessor = preprocessor_config(
        source.architecture.masks, source.short_side, source.max_size, source.normalization
    )
    for name, content in ((CONFIG, config), (PREPROCESSOR, preprocessor)):
        with atomic_write(folder / name, "w") as file:
            json.dump(content, file, indent=2, ensure_ascii=False)


def read_folder(folder: Path) -> tuple[dict[str, Any], nn.Module]:
    """Read a Hugging Face folder as a checkpoint, and build its model.

    Returns:
        A checkpoint, and our model with its weights. The checkpoint has ``model``: the weights
        under our key names; ``args``: the flags of the architecture, and image sizes, normalization
        and ``panoptic_threshold`` if the folder has them; ``categories``: names by category id;
        ``is_thing``, ``category_ids``, ``thresholds`` and ``split``, as in a checkpoint;
        ``unused_ids``: see `export.loaded_model.LoadedModel`.

    Raises:
        UserError: a file is missing, or we have no equivalent model.
    """
    config = read_json(folder / CONFIG)
    flags, classes = read_config(config, str(folder / CONFIG))
    transforms = {}
    if (path := folder / PREPROCESSOR).exists():
        transforms = read_preprocessor(read_json(path), str(path))
    path = folder / WEIGHTS
    if path.exists():
        theirs = read_safetensors(path)[0]
    else:
        path = folder / OLD_WEIGHTS
        if not path.exists():
            raise UserError(f"{folder}: has neither {WEIGHTS} nor {OLD_WEIGHTS}")
        theirs = model_state(load_checkpoint(path), str(path))
    state = from_huggingface(theirs, str(path))
    architecture = Architecture.of(state, flags, str(path))
    model = architecture.build()
    load_model_state(model, state, str(path), flags_of_main=False)
    checkpoint = {
        "model": state,
        "args": flags | architecture.flags() | transforms,
        "split": config.get(_SPLIT),
        **classes,
    }
    return checkpoint, model


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
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
    """Load a Hugging Face model; it takes our padding mask, and returns raw outputs.

    Args:
        folder: written by ``save_pretrained`` or `write_folder`.

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
        """Return the outputs by this project's names."""
        outputs = model(pixel_values=images, pixel_mask=(~padding_mask).long())  # 1: no padding
        named = {"pred_logits": outputs.logits, "pred_boxes": outputs.pred_boxes}
        return named | ({"pred_masks": outputs.pred_masks} if "pred_masks" in outputs else {})

    return run


def read_preprocessor(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Read the image sizes and the normalization as flags of main.py.

    Args:
        config: content of ``preprocessor_config.json``.
        source: path of the file, for error messages.

    Returns:
        ``scales``, ``max_size``, ``image_mean`` and ``image_std``, without those that the file does
        not have.

    Raises:
        UserError: we have no such transforms.
    """
    entries = Entries(config, source)
    entries.require(do_resize=True, resample=_BILINEAR, do_rescale=True, rescale_factor=1 / 255)
    return _read_sizes(entries) | _read_normalization(entries)


def _read_sizes(entries: Entries) -> dict[str, Any]:
    size = entries.values.get("size")
    if isinstance(size, int):  # files of old versions
        shortest, longest = entries.get("size", int, 0), entries.get("max_size", int, 1333)
    else:
        part = entries.part("size")
        if not part.values:
            return {}
        shortest, longest = (part.get(f"{end}_edge", int, 0) for end in ("shortest", "longest"))
    if not 0 < shortest <= longest:
        raise UserError(
            f"{entries.source}: size is {short(size)}; our transforms need a shortest_edge and "
            "a longest_edge"
        )
    return {"scales": [shortest], "max_size": longest}


def _read_normalization(entries: Entries) -> dict[str, list[float]]:
    if not entries.get("do_normalize", bool, True):
        return _NOT_NORMALIZED.flags()
    names = ("image_mean", "image_std")
    given = {name: value for name in names if (value := entries.values.get(name)) is not None}
    flags = Normalization.of(given, entries.source).flags()
    return {name: flags[name] for name in given}


def preprocessor_config(
    panoptic: bool, short_side: int, max_size: int, normalization: Normalization
) -> dict[str, Any]:
    """Configuration of Hugging Face's image processor, with the transforms of our evaluation."""
    return {
        "image_processor_type": "DetrImageProcessor",
        "format": "coco_panoptic" if panoptic else "coco_detection",
        "do_resize": True,
        "size": {"shortest_edge": short_side, "longest_edge": max_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        **normalization.flags(),
        "do_pad": True,
    }

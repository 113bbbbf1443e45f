"""``eval/data.json``: the data of each evaluation in an output folder."""

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from pycocotools.coco import COCO

from util.files.checkpoint_file import atomic_write

_FILE = Path("eval") / "data.json"
_NOT_SHOWN = ("seed", "masks")  # no flags of python -m report


class EvaluatedData(NamedTuple):
    """Data of an evaluation.

    Attributes:
        hash: hash of the ground truth, see `ground_truth_hash`.
        flags: main.py flags that select the data, by name.
        names: class names by category id.
    """

    hash: str
    flags: Mapping[str, Any]
    names: Mapping[int, str]


def data_flags_text(flags: Mapping[str, Any]) -> str:
    """Flags that select the data, as on the command line, without defaults."""
    words: list[str] = []
    for name, value in flags.items():
        is_default = value in (None, "", False) or (name, value) == ("dataset_file", "coco")
        if not is_default and name not in _NOT_SHOWN:
            words += [f"--{name}"] if value is True else [f"--{name}", shlex.quote(str(value))]
    return " ".join(words)


def ground_truth_hash(ground_truth: COCO) -> str:
    """Hash of image names and annotated boxes; it does not change if the images are moved.

    Returns:
        16 hexadecimal digits.
    """
    images = [
        [i, PurePath(str(row.get("file_name", ""))).name] for i, row in ground_truth.imgs.items()
    ]
    fields = ("image_id", "category_id", "iscrowd", "bbox")
    objects = [[one.get(name) for name in fields] for one in ground_truth.anns.values()]
    lines = sorted(json.dumps(row, default=float) for row in (*images, *objects))
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


def write_evaluated_data(folder: Path, files: Iterable[str], data: EvaluatedData) -> None:
    """Store the data of an evaluation in ``eval/data.json``.

    Args:
        folder: output folder; its subfolder ``eval`` must exist.
        files: files of this evaluation, relative to ``folder``; other entries are kept.
        data: data of this evaluation.
    """
    entries = {**read_evaluated_data(folder), **dict.fromkeys(files, data)}
    content = {name: entry._asdict() for name, entry in entries.items()}
    with atomic_write(folder / _FILE, "w") as file:
        json.dump(content, file, indent=1)


def read_evaluated_data(folder: Path) -> dict[str, EvaluatedData]:
    """Read the data entry of each evaluation file in an output folder.

    Returns:
        data by evaluation file, as a path relative to ``folder``; empty if there is no valid
        ``eval/data.json``, as in folders of earlier versions.
    """
    try:
        content = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        return {name: _entry_of(entry) for name, entry in content.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _entry_of(entry: Mapping[str, Any]) -> EvaluatedData:
    names = {int(number): str(name) for number, name in entry["names"].items()}
    return EvaluatedData(str(entry["hash"]), dict(entry["flags"]), names)

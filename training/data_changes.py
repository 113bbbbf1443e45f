"""Report that the data of a resumed run has changed since the checkpoint was written."""

from collections.abc import Mapping
from typing import Any

from util.text import counted


def facts_of(dataset: Any) -> dict[str, Any] | None:
    """Number of images and objects of a dataset, and a hash; None for other dataset classes.

    Args:
        dataset: training or validation data, or None.
    """
    return dataset.facts() if hasattr(dataset, "facts") else None


def report_changed_data(saved: Any, now: Mapping[str, Any]) -> None:
    """Print which data has changed.

    Args:
        saved: ``data`` of the checkpoint, not validated; None in files of earlier versions.
        now: the same of this run: facts by name of the split, see `facts_of`.
    """
    for split, facts in now.items():
        before = saved.get(split) if isinstance(saved, Mapping) else None
        if facts is None or not isinstance(before, Mapping) or before.get("hash") == facts["hash"]:
            continue
        effect = "; best.pth and --patience compare scores of both" if split == "validation" else ""
        print(
            f"Warning: the {split} data has changed since the checkpoint was written: "
            f"{_difference(before, facts)}{effect}"
        )


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = ("images", "objects")
    if all(before.get(name) == now[name] for name in names):
        return "other image names, boxes or classes"
    return ", ".join(f"{counted(now[name], name)} instead of {before.get(name)}" for name in names)

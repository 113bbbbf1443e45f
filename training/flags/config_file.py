"""``config.txt``: the flags of a run, to be read by ``main.py @config.txt``."""

import argparse
import datetime
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.flags.precision import with_flag_as_given
from training.output_folder import lies_in, numbered_path
from util.files.checkpoint_file import atomic_write
from util.reproducibility.provenance import versions

CONFIG = "config.txt"
_NO_FLAG = ("#", "--num_classes ")
# Flags that affect a single launch (handling of the output folder, settings of the launcher). They
# are written as comments, so that a run started from the file does not repeat them.
_LAUNCH_FLAGS = ("auto_resume", "overwrite", "start_epoch", "world_size", "dist_url")


def build_config(
    args: argparse.Namespace, actions: Mapping[str, argparse.Action], num_classes: int | None
) -> str:
    """Return the content of ``config.txt``.

    Flags that differ from their defaults come first; the others follow as comments.

    Args:
        actions: argparse actions of main.py by name.
        num_classes: ``--num_classes`` as given, instead of the value in ``args``, which may have
            been read from weights or data; None: not given.
    """
    values = {**with_flag_as_given(vars(args)), "num_classes": num_classes}
    changed: list[str] = []
    others: list[str] = []
    for name, action in actions.items():
        value = values[name]
        line = flag_line(action, value)
        is_comment = line is None or value == action.default or name in _LAUNCH_FLAGS
        if name == "resume" and value and args.output_dir and lies_in(value, Path(args.output_dir)):
            is_comment = True  # continues the run in this folder
        (others if is_comment else changed).append(line or _comment(action, value))
    date = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    head = [f"Flags of a run, read by: python main.py @{CONFIG}", f"{date}, {packages}"]
    tail = [f"Default values, and flags that apply to a single launch ({len(others)}):", *others]
    return "\n".join([*_comments(head), "", *changed, "", *_comments(tail), ""])


def write_config(folder: Path, text: str) -> None:
    """Write ``config.txt``, unless it already contains the same flags.

    Earlier flags of a resumed run are kept as ``config-1.txt``, ``config-2.txt`` and so on. Call it
    on rank 0 only.

    Args:
        text: content, from `build_config`.
    """
    path = folder / CONFIG
    if path.exists():
        before = path.read_text(encoding="utf-8", errors="surrogateescape")
        if _flags_in(before) == _flags_in(text):
            return
        earlier = path.rename(numbered_path(folder, "config-{}.txt"))
        print(f"{path} contains the flags of this run; the previous flags are in {earlier.name}")
    with atomic_write(path, "wb") as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def flag_line(action: argparse.Action, value: Any) -> str | None:
    """A flag as a line of an ``@file``; None if it is not given or cannot be written.

    Args:
        action: argparse action of the flag.
        value: value of the flag.
    """
    flag = action.option_strings[0]
    if action.nargs == 0:
        return flag if value == action.const else None
    if value is None:
        return None
    words = [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
    if any(len(word.splitlines()) > 1 for word in words):
        return None
    if len(words) == 1 and words[0].startswith(("-", "@")):  # would be read as a flag or @file
        return shlex.quote(f"{flag}={words[0]}")
    return shlex.join([flag, *words])


def _comment(action: argparse.Action, value: Any) -> str:
    """Comment for a flag that is not given, or whose value contains a line break."""
    flag = action.option_strings[0]
    return f"{flag} is not given" if not value or action.nargs == 0 else f"{flag} is {value!r}"


def _comments(lines: list[str]) -> list[str]:
    return [f"# {line}" for line in lines]


def _flags_in(text: str) -> list[str]:
    """Lines with flags. --num_classes is ignored: a resumed run need not repeat it."""
    return [line for line in text.splitlines() if line and not line.startswith(_NO_FLAG)]

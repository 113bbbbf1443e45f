"""What a user may have meant by a misspelt flag or a missing file of flags."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

# What a flag may begin with: word processors replace two hyphens by one dash.
DASHES = ("-", "\N{EN DASH}", "\N{EM DASH}", "\N{MINUS SIGN}")
_NAMES_LISTED = 30


def did_you_mean(word: str, choices: Sequence[str]) -> str:
    """The choice most similar to a word, as the end of a message; "" if none is similar.

    >>> did_you_mean("--train_imags", ["--train_images", "--val_images"])
    ', did you mean --train_images?'
    """
    closest = difflib.get_close_matches(word, choices, n=1)
    return f", did you mean {closest[0]}?" if closest else ""


def explain_unknown(argument: str, flags: Sequence[str], reads_files: bool) -> str:
    """What is wrong with an argument that a parser does not know.

    Args:
        argument: as given.
        flags: names of the parser's flags, with their hyphens.
        reads_files: whether the parser takes files of flags as ``@file``.
    """
    if argument.startswith(DASHES):
        name = argument.partition("=")[0].lstrip("-")
        hint = did_you_mean(f"--{name}", flags)
        return f"unknown flag {argument}{hint}"
    if reads_files and os.path.isfile(argument):
        return f"unexpected argument {argument}; a file with flags is given as @{argument}"
    return f"unexpected argument {argument}; a value with spaces needs quotes"


def explain_argument_file(path: str) -> str | None:
    """Why a file of flags, ``@path`` on a command line, cannot be read; None if it can."""
    try:
        Path(path).read_text()
    except UnicodeDecodeError:
        return f"@{path} is not a text file; it must hold flags as on a command line"
    except OSError as error:
        if not isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            return f"@{path} cannot be read ({error.strerror})"
    else:
        return None
    problem = "is a folder" if Path(path).is_dir() else "does not exist"
    recipes = sorted(Path(os.path.relpath(CONFIGS)).glob("*.txt"))
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    # Beside main.py there are no files of flags but requirements.
    others = sorted(folder.glob("*.txt")) if folder.resolve() != CONFIGS.parent else []
    similar = difflib.get_close_matches(Path(path).stem, [one.stem for one in others], n=1)
    if not similar:
        similar = difflib.get_close_matches(Path(path).stem, [one.stem for one in recipes], n=1)
        others = recipes if similar else others or recipes
    listed = ", ".join(other.name for other in others[:_NAMES_LISTED])
    hint = f", did you mean @{others[0].parent / similar[0]}.txt?" if similar else ";"
    return f"@{path} {problem}{hint} {others[0].parent} holds {listed}"

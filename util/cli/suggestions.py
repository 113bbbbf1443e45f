"""Suggestions for misspelled flags and missing @files."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

# Characters that a flag may begin with: word processors replace two hyphens with one dash.
DASHES = ("-", "\N{EN DASH}", "\N{EM DASH}", "\N{MINUS SIGN}")
_NAMES_LISTED = 30


def did_you_mean(word: str, choices: Sequence[str]) -> str:
    """Suggest the choice most similar to a word, as the end of a message; "" if none is similar.

    >>> did_you_mean("--train_imags", ["--train_images", "--val_images"])
    ', did you mean --train_images?'
    """
    closest = difflib.get_close_matches(word, choices, n=1)
    return f", did you mean {closest[0]}?" if closest else ""


def explain_unknown(argument: str, flags: Sequence[str], reads_files: bool) -> str:
    """Error message for an argument that a parser does not know.

    Args:
        flags: names of the parser's flags, with their hyphens.
        reads_files: whether the parser reads flags from ``@file`` arguments.
    """
    if argument.startswith(DASHES):
        name = argument.partition("=")[0].lstrip("-")
        hint = did_you_mean(f"--{name}", flags)
        return f"unknown flag {argument}{hint}"
    if reads_files and os.path.isfile(argument):
        return f"unexpected argument {argument}; to read flags from this file, write @{argument}"
    return f"unexpected argument {argument}; a value with spaces needs quotes"


def explain_argument_file(path: str) -> str | None:
    """Error message for an ``@path`` argument whose file cannot be read; None if it can be read."""
    try:
        Path(path).read_text()
    except UnicodeDecodeError:
        return f"@{path} is not a text file; it must contain flags as on a command line"
    except OSError as error:
        if not isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            return f"@{path} cannot be read ({error.strerror})"
    else:
        return None
    problem = "is a folder" if Path(path).is_dir() else "does not exist"
    recipes = sorted(Path(os.path.relpath(CONFIGS)).glob("*.txt"))
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    # *.txt files next to main.py are requirements, not flags.
    others = sorted(folder.glob("*.txt")) if folder.resolve() != CONFIGS.parent else []
    similar = difflib.get_close_matches(Path(path).stem, [file.stem for file in others], n=1)
    if not similar:
        similar = difflib.get_close_matches(Path(path).stem, [file.stem for file in recipes], n=1)
        others = recipes if similar else others or recipes
    listed = ", ".join(other.name for other in others[:_NAMES_LISTED])
    hint = f", did you mean @{others[0].parent / similar[0]}.txt?" if similar else ";"
    return f"@{path} {problem}{hint} {others[0].parent} contains {listed}"

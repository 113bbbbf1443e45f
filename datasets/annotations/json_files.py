"""Read JSON files, with error messages that explain why a file cannot be read."""

import json
from pathlib import Path
from typing import Any

from datasets.annotations.foreign_formats import recognize_binary, recognize_folder, recognize_text
from util.errors import UserError


def read_json(path: str | Path, name: str, fix: str) -> Any:
    """Read a JSON file.

    Numbers may be NaN or infinite; of duplicate keys the last one is used.

    Args:
        path: UTF-8 file.
        name: description of the file in messages.
        fix: end of the error message: how to fix the problem.

    Raises:
        UserError: if the file cannot be read or parsed.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except IsADirectoryError:
        reason = _describe_folder(Path(path))
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    except UnicodeDecodeError as error:
        found = recognize_binary(error.object)
        reason = "is not JSON: it "
        reason += f"looks like {found}" if found else "is not UTF-8 text; save it as UTF-8"
    except RecursionError:
        reason = "is nested too deeply to be parsed"
    except json.JSONDecodeError as error:
        reason = _describe_syntax_error(error)
    except ValueError:  # Python's limit on the length of integers
        reason = "contains an integer with thousands of digits"
    raise UserError(f"{name} {path} {reason}; {fix}")


def _describe_folder(folder: Path) -> str:
    """Describe a folder that was given instead of a JSON file."""
    files = sorted(folder.glob("*.json"))
    if files:
        return f"is a folder; give a file in it, such as {files[0]}"
    foreign = recognize_folder(folder)
    return f"is a folder; it looks like {foreign}" if foreign else "is a folder without JSON files"


def _describe_syntax_error(error: json.JSONDecodeError) -> str:
    """Describe a text that is not JSON."""
    if not error.doc.strip():
        return "is empty"
    if (found := recognize_text(error.doc)) is not None:
        return f"is not JSON: it looks like {found}"
    if error.msg.startswith("Unterminated") or error.pos >= len(error.doc.rstrip()):
        return f"is truncated after {len(error.doc)} characters; copy it again"
    return f"is not JSON: {error}"

"""Reading JSON files that nobody vouches for, and telling what is in them."""

import json
from pathlib import Path
from typing import Any

from datasets.annotations.foreign_formats import recognise_binary, recognise_folder, recognise_text
from util.errors import UserError


def read_json(path: str | Path, name: str, way_out: str) -> Any:
    """Read a JSON file.

    Numbers may be NaN or infinite; of equal keys the last counts.

    Args:
        path: of a text in UTF-8.
        name: what messages call it.
        way_out: what the user can do where it cannot be read.

    Raises:
        UserError: the file cannot be read, or does not hold JSON that Python can hold.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except IsADirectoryError:
        reason = _describe_folder(Path(path))
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    except UnicodeDecodeError as error:
        found = recognise_binary(error.object)
        reason = "is not JSON: it "
        reason += f"looks like {found}" if found else "is no text in UTF-8; save it as such"
    except RecursionError:
        reason = "is nested too deeply to be read; write it anew"
    except json.JSONDecodeError as error:
        reason = _place_of_fault(error)
    except ValueError:  # Python's limit against numbers whose conversion takes forever
        reason = "has an integer of thousands of digits; write it anew"
    raise UserError(f"{name} {path} {reason}; {way_out}")


def _describe_folder(folder: Path) -> str:
    """What a folder holds that is given in place of a JSON file."""
    files = sorted(folder.glob("*.json"))
    if files:
        return f"is a folder; give a file in it, such as {files[0]}"
    foreign = recognise_folder(folder)
    return f"is a folder, which looks like {foreign}" if foreign else "is a folder without JSON"


def _place_of_fault(error: json.JSONDecodeError) -> str:
    """What is wrong with a text that is not JSON."""
    if not error.doc.strip():
        return "is empty"
    if (found := recognise_text(error.doc)) is not None:
        return f"is not JSON: it looks like {found}"
    if error.msg.startswith("Unterminated") or error.pos >= len(error.doc.rstrip()):
        return f"ends in the middle, after {len(error.doc)} characters; copy it again"
    return f"is not JSON: {error}"

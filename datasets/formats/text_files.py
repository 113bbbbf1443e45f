"""Read small text files: lists of images, class names, labels."""

from pathlib import Path

from util.errors import UserError


def _read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text file, without white space at their ends."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path") from None
    return [line.strip() for line in text.splitlines()]


def filled_lines(path: Path) -> list[tuple[int, str]]:
    """Lines of `_read_lines` that are not empty, with their numbers from 1."""
    return [(number, line) for number, line in enumerate(_read_lines(path), start=1) if line]


def read_names(path: Path) -> list[str]:
    """Read class names, one per line.

    Raises:
        UserError: the file cannot be read, has no names, or has a name twice.
    """
    first: dict[str, int] = {}
    for number, name in filled_lines(path):
        if name in first:
            raise UserError(
                f"{path}, line {number}: class {name!r} is also in line {first[name]}; "
                "name every class once"
            )
        first[name] = number
    if not first:
        raise UserError(f"{path} has no class names; write one per line")
    return list(first)

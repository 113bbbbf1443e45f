"""Read small text files: lists of images, class names, labels."""

from pathlib import Path

from util.errors import UserError


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without BOM; line endings are normalized.

    Raises:
        UserError: the file cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path") from None


def filled_lines(path: Path) -> list[tuple[int, str]]:
    """Lines that are not empty, with their numbers from 1, without white space at their ends."""
    lines = (line.strip() for line in read_text(path).splitlines())
    return [(number, line) for number, line in enumerate(lines, start=1) if line]


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

"""Find the images and videos given on a command line: files, folders, patterns and cameras."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from datasets.formats.image_files import IMAGE_SUFFIXES
from prediction.names import unique_names
from util.errors import UserError
from util.text import count, first_of

VIDEO_SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv"),
        *(".3gp", ".ogv", ".mts", ".m2ts"),
    }
)


@dataclass(frozen=True)
class Input:
    """An image file, a video file or a camera.

    Attributes:
        path: path of the file as given; the index of a camera.
        name: name for its output files: a relative path with ``/``, unique among all inputs.
        is_video: whether this is a video file or a camera.
    """

    path: str
    name: str
    is_video: bool = False


def warn_of_output_inside(arguments: Sequence[str], output_dir: str | Path) -> None:
    """Print a warning if the output folder is inside an input folder, which may be a dataset.

    Args:
        arguments: inputs given on the command line.
    """
    output = Path(output_dir).resolve()
    for argument in arguments:
        if Path(argument).is_dir() and output.is_relative_to(Path(argument).resolve()):
            print(
                f"Warning: --output_dir {output_dir} is inside {argument}: training on this folder "
                "would use the annotated images as images without objects"
            )


def ignored_files(paths: Sequence[str]) -> str:
    """Which files of folders are not predicted, in one line.

    Args:
        paths: at least one file without the suffix of an image.

    >>> ignored_files(["a/1.HEIC", "a/2.heic", "a/3.mov"])
    '3 files ignored: no image suffix (.heic 2, .mov 1); give videos themselves, such as a/3.mov'
    """
    suffixes = Counter(_suffix(path) or "none" for path in paths)
    found = first_of([f"{suffix} {number}" for suffix, number in suffixes.most_common()])
    videos = [path for path in paths if _suffix(path) in VIDEO_SUFFIXES]
    hint = f"; give videos themselves, such as {videos[0]}" if videos else ""
    return f"{count(len(paths), 'file')} ignored: no image suffix ({found}){hint}"


def find_inputs(arguments: Sequence[str], output_dir: str | Path) -> tuple[list[Input], list[str]]:
    """Find all inputs given on a command line.

    Args:
        arguments: image files, video files, folders (searched recursively for files with an image
            suffix), patterns with ``*``, ``?`` or ``**``, and camera indices.
        output_dir: output folder; files in it are skipped when folders and patterns are searched.

    Returns:
        the inputs, each file once, and the files in folders that are not images and not given.

    Raises:
        UserError: if nothing is found for an argument, or an output would replace an input.
    """
    found: dict[str, Input] = {}
    others = []
    own = os.path.realpath(output_dir)
    for argument in arguments:
        for file in _find(argument, own):
            absolute = file.path if _is_camera(file.path) else os.path.realpath(file.path)
            if file.name:
                found.setdefault(absolute, file)
            else:
                others.append(file.path)
    if not found:
        ignored = f" ({ignored_files(others)})" if others else ""
        where = " ".join(arguments)
        raise UserError(f"no images in {where}{ignored}: give image files or their folder")
    names = unique_names(list(found), [file.name for file in found.values()])
    inputs = [
        Input(file.path, name, _is_camera(file.path) or _suffix(file.path) in VIDEO_SUFFIXES)
        for file, name in zip(found.values(), names, strict=True)
    ]
    _check_not_replaced(list(found), own)
    return inputs, [path for path in others if os.path.realpath(path) not in found]


def _find(argument: str, output_dir: str) -> Iterator[Input]:
    """Inputs of an argument; videos are not yet marked as such.

    For non-image files in a folder the name is empty.
    """
    if os.path.isdir(argument):
        yield from _in_folder(argument, argument, output_dir)
    elif os.path.lexists(argument):
        yield Input(argument, os.path.basename(argument))
    elif _is_camera(argument):
        yield Input(argument, f"camera{argument}")
    elif glob.has_magic(argument):
        yield from _matches(argument, output_dir)
    else:
        raise UserError(f"{argument} does not exist; give image files, a folder or a video")


def _in_folder(folder: str, root: str, output_dir: str) -> Iterator[Input]:
    """All files of a folder and its subfolders, sorted, without hidden files.

    Links to folders elsewhere are followed, each folder is searched once.
    """
    top = os.path.realpath(folder)
    known = {top, output_dir}

    def is_new(path: str) -> bool:
        """Whether a subfolder is to be searched: a link must not lead back here."""
        real = os.path.realpath(path)
        leads_back = os.path.islink(path) and (_is_inside(real, top) or _is_inside(top, real))
        if leads_back or real in known:
            return False
        known.add(real)
        return True

    for where, folders, files in os.walk(folder, followlinks=True):
        kept = [name for name in sorted(folders) if not name.startswith(".")]
        folders[:] = [name for name in kept if is_new(os.path.join(where, name))]
        for name in sorted(files):
            path = os.path.join(where, name)
            if not name.startswith("."):
                is_image = _suffix(name) in IMAGE_SUFFIXES
                yield Input(path, _relative(path, root) if is_image else "")


def _matches(pattern: str, output_dir: str) -> Iterator[Input]:
    """Files that match a pattern, and files in folders that match."""
    parts = PurePath(pattern).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = str(PurePath(*parts[:fixed])) if fixed else "."
    matches = sorted(glob.glob(pattern, recursive=True))
    if not matches:
        raise UserError(f"no file matches the pattern {pattern}")
    for path in matches:
        if os.path.isdir(path):
            if not pattern.endswith("**"):  # "**" also matches the files inside
                yield from _in_folder(path, root, output_dir)
        elif not _is_inside(os.path.realpath(path), output_dir):
            is_known = _suffix(path) in IMAGE_SUFFIXES | VIDEO_SUFFIXES
            yield Input(path, _relative(path, root) if is_known else "")


def _check_not_replaced(absolute_paths: Sequence[str], output_dir: str) -> None:
    """Check that no input is in the output folder, where it could be overwritten."""
    for path in absolute_paths:
        if _is_inside(path, output_dir):
            raise UserError(
                f"{path} is inside --output_dir {output_dir}, whose files are overwritten: "
                "choose a different --output_dir"
            )


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _is_camera(argument: str) -> bool:
    return argument.isdecimal() and not os.path.lexists(argument)


def _relative(path: str, root: str) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()

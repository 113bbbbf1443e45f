"""Write files into a temporary folder, and move them to their place once they are checked."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from util.files.checkpoint import atomic_write
from util.files.temporary import removed_on_sigterm


@contextlib.contextmanager
def staged_files(folder: Path) -> Iterator[Path]:
    """A temporary folder, for a ``with`` block; its files go to ``folder`` at the end of the block.

    If the block raises, or SIGTERM ends the process, nothing changes. Files are copied in
    reversed alphabetical order: ``model.onnx.data`` before ``model.onnx``.

    Args:
        folder: created at the end if it does not exist; its parent must exist.
    """
    # An existing folder may be on another disk than the folder that it is in.
    place = folder if folder.exists() else folder.absolute().parent
    with (
        tempfile.TemporaryDirectory(dir=place, prefix=".export-") as name,
        removed_on_sigterm(temporary := Path(name)),
    ):
        yield temporary
        folder.mkdir(exist_ok=True)
        for file in sorted(temporary.iterdir(), reverse=True):
            with file.open("rb") as written, atomic_write(folder / file.name) as copy:
                shutil.copyfileobj(written, copy)

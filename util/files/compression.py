"""Refuse compressed zip files: a small file could fill the memory."""

import os
import zipfile

from util.errors import UserError


def refuse_compression(path: str | os.PathLike[str], name: str) -> None:
    """Check that reading a zip file takes no more memory than the file; PyTorch compresses nothing.

    Args:
        path: file to check; files of other formats pass.
        name: name of the file in error messages.

    Raises:
        UserError: it has compressed or overlapping entries.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as file:
        entries = file.infolist()
    is_compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if is_compressed or sum(entry.file_size for entry in entries) > os.path.getsize(path):
        raise UserError(
            f"{name}: has compressed entries, which is refused: unpack and save it again"
        )

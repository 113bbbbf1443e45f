"""Image ids from a COCO annotation file, for COCO results."""

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from datasets.annotations.coco_file import (
    UPRIGHT,
    Row,
    category_names,
    is_integer,
    load_annotations,
)
from datasets.annotations.table_checks import size_wh
from prediction.inputs.find import Input
from util.errors import UserError


class ListedRow(NamedTuple):
    """An image in the annotation file.

    Attributes:
        image_id: id of the image.
        size_wh: width and height in pixels; None if missing.
        upright: whether the annotations are known to refer to the upright image.
    """

    image_id: int
    size_wh: tuple[int, int] | None
    upright: bool = False


class ListedFiles:
    """The images of an annotation file by file name.

    Args:
        ann_file: COCO JSON.

    Attributes:
        categories: class names by category id.

    Raises:
        UserError: if the file cannot be read, or is not in COCO format.
    """

    def __init__(self, ann_file: str | Path) -> None:
        self._ann_file = ann_file
        data = load_annotations(ann_file, "give a COCO annotation file with --ann")
        rows, valid = data["images"], [c for c in data["categories"] if is_integer(c.get("id"))]
        self.categories = category_names(valid)
        self._by_name: dict[str, list[Row]] = {}
        for row in rows:
            if name := _file_name(row):
                self._by_name.setdefault(name, []).append(row)

    def find(self, path: str) -> ListedRow:
        """Find the row whose file name matches the end of a path; the longest match is used.

        Raises:
            UserError: if there is none, or several with this file name.
        """
        parts = PurePath(path).parts
        for start in range(len(parts)):
            if rows := self._by_name.get("/".join(parts[start:])):
                row = rows[0]
                if len(rows) > 1:
                    ids = " and ".join(str(one["id"]) for one in rows[:2])
                    raise UserError(
                        f"--ann {self._ann_file} lists {row['file_name']} as image ids {ids}; "
                        "list every file once"
                    )
                return ListedRow(row["id"], size_wh(row), bool(row.get(UPRIGHT)))
        raise UserError(f"{path} is not among the images of --ann {self._ann_file}")

    def check(self, inputs: Sequence[Input]) -> None:
        """Check that every input is listed, under an id of its own.

        Raises:
            UserError: if an image is not listed, two have the same id, or an input is a video.
        """
        path_of: dict[int, str] = {}
        for file in inputs:
            if file.is_video:
                raise UserError(f"--ann provides ids of image files, but {file.path} is a video")
            image_id = self.find(file.path).image_id
            other = path_of.setdefault(image_id, file.path)
            if other != file.path:
                raise UserError(
                    f"{other} and {file.path} both match image id {image_id} of --ann "
                    f"{self._ann_file}; give only the image that is annotated"
                )


def _file_name(row: Row) -> str:
    """File name of a valid row of the table "images", else an empty string."""
    name = row.get("file_name")
    return PurePath(name).as_posix() if isinstance(name, str) and is_integer(row.get("id")) else ""

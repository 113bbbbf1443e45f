"""Category ids: as in the user's files, as integers, and as rows of the classification head."""

import re
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

OwnId = int | str

_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")


def category_id_of(own_id: OwnId) -> int:
    """Convert the id of a category in the user's files to an integer.

    The result does not depend on other categories: integers do not change, a decimal number in a
    string becomes this number, and any other string its CRC-32.

    >>> category_id_of(17), category_id_of("17"), category_id_of("017"), category_id_of("cell")
    (17, 17, 2781519423, 3414656994)
    """
    if isinstance(own_id, int):
        return own_id
    if _NUMBER.fullmatch(own_id):
        return int(own_id)
    return zlib.crc32(own_id.encode("utf-8", "backslashreplace"))


@dataclass(frozen=True)
class CategoryIds:
    """The category id of each row of a classification head; the no-object row has none.

    Attributes:
        user_ids: for each row the id in the user's files, an integer or a string.
    """

    user_ids: tuple[OwnId, ...]

    @classmethod
    def read(cls, saved: Any, num_classes: int) -> "CategoryIds":
        """Read the entry ``category_ids`` of a checkpoint.

        Args:
            saved: list with the user's id of each row; None: row numbers are category ids.
            num_classes: number of rows without the no-object row.

        Raises:
            ValueError: if ``saved`` is not such a list.
        """
        if saved is None:
            return cls(tuple(range(num_classes)))
        if not isinstance(saved, list) or len(saved) != num_classes:
            raise ValueError(f"category_ids must be a list of {num_classes} ids, one per class")
        if not all(type(one) in (int, str) for one in saved):
            raise ValueError("category_ids must be integers and strings")
        ids = cls(tuple(saved))
        if len(ids.row_of) < num_classes:
            raise ValueError("category_ids has an id twice")
        return ids

    def saved(self) -> list[OwnId] | None:
        """The entry ``category_ids`` of a checkpoint, see `read`."""
        return None if self.user_ids == tuple(range(len(self.user_ids))) else list(self.user_ids)

    @cached_property
    def by_row(self) -> tuple[int, ...]:
        """Category id of each row."""
        return tuple(map(category_id_of, self.user_ids))

    @cached_property
    def row_of(self) -> dict[int, int]:
        """Row of each category id."""
        return {category_id: row for row, category_id in enumerate(self.by_row)}

    @property
    def are_rows(self) -> bool:
        """Whether every category id is the number of its row."""
        return self.by_row == tuple(range(len(self.user_ids)))

    def text_ids(self) -> dict[int, str]:
        """The user's id by category id, where it is a string."""
        return {category_id_of(text): text for text in self.user_ids if isinstance(text, str)}

    def rows_of(self, category_ids: Tensor) -> Tensor:
        """Rows of category ids, both (N,) int64.

        Raises:
            KeyError: an id has no row.
        """
        rows = [self.row_of[category_id] for category_id in category_ids.tolist()]
        return torch.tensor(rows, dtype=torch.int64, device=category_ids.device)

"""Convert the labels of a dataset from category ids to rows of the classification head."""

from collections.abc import Sized
from typing import Any, cast

from torch.utils.data import Dataset

from util.category_ids import CategoryIds
from util.errors import UserError


class RowLabels(Dataset):
    """A dataset whose ``labels`` are rows of the classification head instead of category ids.

    Args:
        dataset: a map-style dataset; returns (image, target).
        category_ids: of the head.
    """

    def __init__(self, dataset: Dataset, category_ids: CategoryIds) -> None:
        self.dataset = dataset
        self._category_ids = category_ids

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        """Return image and target.

        Raises:
            UserError: the head has no row for a label.
        """
        image, target = self.dataset[index]
        try:
            rows = self._category_ids.rows_of(target["labels"])
        except KeyError as error:
            raise UserError(
                f"image id {int(target['image_id'])}: the classification head has no row for "
                f"category id {error}; list the category in the annotation file"
            ) from None
        return image, {**target, "labels": rows}

    def pop_notice(self) -> str | None:
        """Return the dataset's remark about the last item, if any."""
        dataset: Any = self.dataset
        return dataset.pop_notice() if hasattr(dataset, "pop_notice") else None


def with_row_labels(dataset: Dataset, category_ids: CategoryIds | None) -> Dataset:
    """The dataset with rows as labels; unchanged where category ids are row numbers or None."""
    if category_ids is None or category_ids.are_rows:
        return dataset
    return RowLabels(dataset, category_ids)

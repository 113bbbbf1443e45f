"""Labels become rows of the classification head."""

import pytest
import torch

from datasets.loading.loaders import TrainLoader, build_val_loader
from datasets.loading.samples import Samples
from util.category_ids import CategoryIds
from util.errors import UserError

IDS = CategoryIds((300, 5, 70))


class Labelled(torch.utils.data.Dataset):
    """Image i has the labels 5 and 300; the transforms have left other fields."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        target = {"labels": torch.tensor([5, 300, 5]), "image_id": torch.tensor([index])}
        return torch.zeros(3, 2, 2), target

    def pop_notice(self):
        return "turned"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_both_loaders_give_rows_and_keep_the_data_set(num_workers, capsys):
    data = Labelled()
    train = TrainLoader(data, 2, num_workers, pin_memory=False, seed=0, category_ids=IDS)
    val = build_val_loader(data, 2, num_workers, pin_memory=False, category_ids=IDS)
    for loader in (train, val):
        targets = [target for _, batch in loader for target in batch]
        assert sorted(int(one["image_id"]) for one in targets) == [0, 1, 2, 3]
        assert all(one["labels"].tolist() == [1, 0, 1] for one in targets)
    assert val.dataset is data
    assert capsys.readouterr().out == "turned\nturned\n"


@pytest.mark.parametrize("ids", [None, CategoryIds((0, 1, 2))])
def test_labels_that_are_rows_already(ids):
    data = Labelled()
    assert Samples(data, category_ids=ids)[1].target["labels"].tolist() == [5, 300, 5]


def test_a_label_without_a_row():
    data = Samples(Labelled(), category_ids=CategoryIds((5, 7)))
    with pytest.raises(
        UserError, match="image id 2: the classification head has no row for category id 300"
    ):
        data[2]

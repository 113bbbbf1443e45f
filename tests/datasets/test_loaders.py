"""Order and size of batches."""

import pytest
import torch

from datasets.loaders import build_train_loader, build_val_loader
from util.errors import UserError


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 7

    def __getitem__(self, index):
        return torch.full((3, 2, 2), float(index)), {"index": index}


def order(loader):
    return [[target["index"] for target in targets] for _, targets in loader]


def test_training_leaves_out_an_incomplete_batch_and_shuffles():
    torch.manual_seed(0)
    _, loader = build_train_loader(Numbers(), 2, num_workers=0, pin_memory=False)
    first, second = order(loader), order(loader)
    assert [len(batch) for batch in first] == [2, 2, 2]
    assert len({i for batch in first for i in batch}) == 6
    assert first != second


def test_the_seed_decides_on_the_order():
    orders = []
    for _ in range(2):
        torch.manual_seed(3)
        orders.append(order(build_train_loader(Numbers(), 3, 0, False)[1]))
    assert orders[0] == orders[1]


def test_evaluation_keeps_the_order_and_every_image():
    loader = build_val_loader(Numbers(), 3, num_workers=0, pin_memory=False)
    assert order(loader) == [[0, 1, 2], [3, 4, 5], [6]]


def test_fewer_images_than_a_batch():
    with pytest.raises(UserError, match="--batch_size 8"):
        build_train_loader(Numbers(), 8, 0, False)

"""Order and size of batches."""

import random

import numpy as np
import pytest
import torch

from datasets.loading.loaders import TrainLoader, build_val_loader
from util.errors import UserError
from util.reproducibility.random_state import random_state


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 7

    def __getitem__(self, index):
        return torch.full((3, 2, 2), float(index)), {"index": index}


def order(loader):
    return [[target["index"] for target in targets] for _, targets in loader]


def train_loader(dataset, batch_size, num_workers=0, seed=0):
    return TrainLoader(dataset, batch_size, num_workers, pin_memory=False, seed=seed)


def test_training_leaves_out_an_incomplete_batch_and_shuffles():
    loader = train_loader(Numbers(), 2)
    first = order(loader)
    loader.start_at(1)
    second = order(loader)
    assert [len(batch) for batch in first] == [2, 2, 2] and len(loader) == 3
    assert len({i for batch in first for i in batch}) == 6
    assert first != second


def test_order_depends_on_seed_and_epoch_alone():
    torch.manual_seed(3)
    first = order(train_loader(Numbers(), 3, seed=1))
    torch.manual_seed(4)
    assert order(train_loader(Numbers(), 3, seed=1)) == first
    assert order(train_loader(Numbers(), 3, seed=2)) != first


def test_an_epoch_can_be_entered_in_its_middle():
    loader = train_loader(Numbers(), 2)
    loader.start_at(5)
    whole = order(loader)
    loader.start_at(5, batch=2)
    assert len(loader) == 1 and order(loader) == whole[2:]


class Draws(Numbers):
    """Every generator that an augmentation may draw from."""

    def __getitem__(self, index):
        drawn = (random.random(), float(np.random.rand()), float(torch.rand(())))
        return torch.zeros(3, 2, 2), {"index": index, "drawn": drawn}


@pytest.mark.parametrize("num_workers", [1, 2])
def test_samples_do_not_depend_on_the_number_of_workers(num_workers):
    def draws(num_workers, epoch, batch=0):
        loader = train_loader(Draws(), 2, num_workers)
        loader.start_at(epoch, batch)
        return [[target["drawn"] for target in targets] for _, targets in loader]

    expected = draws(0, epoch=3)
    assert draws(num_workers, epoch=3) == expected
    assert draws(num_workers, epoch=3, batch=1) == expected[1:]
    assert draws(0, epoch=4) != expected
    assert len({number for batch in expected for drawn in batch for number in drawn}) == 18


def test_an_image_is_augmented_differently_with_each_seed_and_in_each_epoch():
    drawn = set()
    for seed in (0, 1):
        loader = train_loader(Draws(), 1, seed=seed)
        for epoch in range(3):
            loader.start_at(epoch)
            drawn |= {(t["index"], t["drawn"]) for _, targets in loader for t in targets}
    assert len(drawn) == 2 * 3 * 7


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loading_leaves_the_generators_of_the_process_alone(num_workers):
    before = random_state()
    list(train_loader(Draws(), 2, num_workers))
    list(build_val_loader(Numbers(), 3, num_workers, pin_memory=False))
    after = random_state()
    assert before["python"] == after["python"]
    assert torch.equal(before["torch"], after["torch"])
    assert torch.equal(before["numpy"]["words"], after["numpy"]["words"])


def test_a_bare_data_set_follows_the_global_generators():
    random.seed(0)
    first = Draws()[0][1]["drawn"][0]
    random.seed(0)
    assert Draws()[0][1]["drawn"][0] == first != Draws()[0][1]["drawn"][0]


def test_evaluation_keeps_the_order_and_every_image():
    loader = build_val_loader(Numbers(), 3, num_workers=0, pin_memory=False)
    assert order(loader) == [[0, 1, 2], [3, 4, 5], [6]]


def test_fewer_images_than_a_batch():
    with pytest.raises(UserError, match=r"8: the data has only 7 .*use --batch_size 7 or less"):
        train_loader(Numbers(), 8)
    message = r"--accum_steps 4: the data has only 7 .*use --batch_size 1 or less"
    with pytest.raises(UserError, match=message):
        TrainLoader(Numbers(), 2, 0, pin_memory=False, seed=0, accum_steps=4)


def test_the_batch_size_changes_between_epochs():
    loader = TrainLoader(Numbers(), 2, 0, pin_memory=False, seed=0, freeze_batch_size=3)
    loader.start_at(0, batch_size=3)
    assert [len(batch) for batch in order(loader)] == [3, 3]
    loader.start_at(1, batch=1, batch_size=2)
    assert [len(batch) for batch in order(loader)] == [2, 2]
    message = r"--freeze_batch_size 8: the data has only 7 .*use --freeze_batch_size 7 or less"
    with pytest.raises(UserError, match=message):
        TrainLoader(Numbers(), 2, 0, pin_memory=False, seed=0, freeze_batch_size=8)


def test_an_epoch_has_whole_steps():
    loader = TrainLoader(Numbers(), 1, 0, pin_memory=False, seed=0, accum_steps=3)
    assert len(loader) == len(order(loader)) == 6
    loader.start_at(0, batch=3)
    assert len(order(loader)) == 3

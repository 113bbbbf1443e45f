"""Images that cannot be read are replaced as far as allowed, and reported once each."""

import logging

import pytest
import torch

from datasets.loading.loaders import TrainLoader, build_val_loader
from datasets.loading.samples import Samples
from util.errors import UserError


class Broken(torch.utils.data.Dataset):
    """Eight images, of which some cannot be read."""

    def __init__(self, *bad):
        self.bad = bad

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index in self.bad:
            raise UserError(f"image id {index}: broken")
        return torch.zeros(3, 2, 2), {"index": index}


def numbers(loader):
    return [target["index"] for _, targets in loader for target in targets]


def test_the_next_one_takes_its_place():
    dataset = Samples(Broken(2, 3, 7), allowed=3)
    assert [dataset[index].target["index"] for index in range(8)] == [0, 1, 4, 4, 4, 5, 6, 0]
    assert dataset[2].errors == ["image id 2: broken", "image id 3: broken"]
    assert dataset[4].errors == []


def test_none_is_allowed_by_default():
    with pytest.raises(UserError, match=r"image id 2: broken .*--skip_bad_images"):
        Samples(Broken(2), allowed=0)[2]


def test_nothing_can_be_read():
    with pytest.raises(UserError, match="none of the images of the dataset"):
        Samples(Broken(*range(8)), allowed=100)[0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_image_is_reported_once(caplog, num_workers):
    known = ["image id 5: broken"]
    options = {"skip_bad_images": 2, "bad_images": known}
    loader = TrainLoader(Broken(2, 5), 2, num_workers, False, seed=0, **options)
    with caplog.at_level(logging.WARNING):
        for epoch in range(2):
            loader.start_at(epoch)
            assert len(numbers(loader)) == 8
    assert known == ["image id 5: broken", "image id 2: broken"]
    (line,) = caplog.messages
    assert line.startswith("image id 2: broken") and "(2 of --skip_bad_images 2)" in line


def test_one_too_many_ends_it_whichever_worker_finds_it():
    loader = TrainLoader(Broken(1, 4, 6), 2, 0, False, seed=0, skip_bad_images=2)
    with pytest.raises(UserError, match=r"more than --skip_bad_images 2 images are unreadable"):
        numbers(loader)


def test_evaluation_goes_on_too_and_knows_its_data_set():
    dataset = Broken(3)
    loader = build_val_loader(dataset, 3, 0, False, skip_bad_images=1)
    assert numbers(loader) == [0, 1, 2, 4, 4, 5, 6, 7]
    assert loader.dataset is dataset and len(loader) == 3

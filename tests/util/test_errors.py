"""Errors that users see."""

import pytest
from torch.utils.data import DataLoader, Dataset

from util.errors import UserError


class Broken(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise UserError("image 7: cannot be read")


class BrokenBehindAnother(Broken):
    def __getitem__(self, index):
        try:
            super().__getitem__(index)
        except UserError as error:
            raise UserError(f"{error}, and none is allowed") from error


def test_the_message_is_one_line():
    assert UserError("a\n  b").one_line() == "a b"


def test_a_worker_process_does_not_hide_the_message():
    try:
        list(DataLoader(Broken(), num_workers=1))
    except UserError as error:
        assert "Traceback" in str(error)
        assert error.one_line() == "image 7: cannot be read"
    else:
        raise AssertionError("the worker's error was lost")


def test_of_an_error_behind_another_the_last_is_the_message():
    with pytest.raises(UserError) as caught:
        list(DataLoader(BrokenBehindAnother(), num_workers=1))
    assert caught.value.one_line() == "image 7: cannot be read, and none is allowed"

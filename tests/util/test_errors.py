"""Errors that users see."""

from torch.utils.data import DataLoader, Dataset

from util.errors import UserError


class Broken(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise UserError("image 7: cannot be read")


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

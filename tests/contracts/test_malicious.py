"""No command and no function of ours runs code out of a file that it reads."""

import re

import pytest
import torch

from tests.contracts.malicious import READERS, write_bomb
from tests.drawn_data import drawn_data
from util.errors import UserError

data = drawn_data(num_train=2, num_val=1)


def test_the_bomb_would_go_off(tmp_path):
    bomb = write_bomb(tmp_path / "bomb.pth", creates=tmp_path / "created")
    torch.load(bomb, weights_only=False)
    assert (tmp_path / "created").exists()


@pytest.mark.parametrize("name", READERS)
def test_it_does_not(data, tmp_path, capsys, name):
    bomb = write_bomb(tmp_path / "bomb.pth", creates=tmp_path / "created")
    try:
        status, message = READERS[name](data, bomb), capsys.readouterr().err
    except UserError as error:
        status, message = 2, str(error)
    assert status == 2
    *progress, line = message.strip().splitlines()
    assert "would run code from the file" in line, message
    assert all(re.match(r"Downloading |$|.*%\|", one) for one in progress), message
    assert not (tmp_path / "created").exists()

"""No command and no function of ours runs code out of a file that it reads."""

import re

import pytest
import torch

from datasets.shapes.directory import write_shapes
from tests.contracts.malicious import READERS, write_bomb
from util.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(root, num_train=2, num_val=1, image_size=64)
    return root


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

"""Drawn shapes as the data of a test module."""

from pathlib import Path
from typing import Any

import pytest

from datasets.shapes.directory import write_shapes


def drawn_data(num_train: int, num_val: int) -> Any:
    """A fixture: the folder of images of 64 pixels, drawn once for the module."""

    @pytest.fixture(scope="module")
    def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
        root = tmp_path_factory.mktemp("data") / "shapes"
        write_shapes(root, num_train=num_train, num_val=num_val, image_size=64)
        return root

    return data

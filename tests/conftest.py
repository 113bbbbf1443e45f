"""What all tests share: those of the GPU are skipped where there is none, examples repeat.

Without its profile, hypothesis would try other examples in each run, and write them to a folder.
"""

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile(
    "repeatable", derandomize=True, max_examples=150, deadline=None, database=None
)
hypothesis.settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))

"""What all tests share: tests of the GPU are skipped where there is none; hypothesis repeats itself.

Without the profile, hypothesis would try other examples each time, and none that take long.
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

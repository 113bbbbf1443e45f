"""What all tests share: those of the GPU are skipped where there is none, examples repeat.

Without its profile, hypothesis would try other examples in each run, and write them to a folder.
"""

from collections.abc import Iterator

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile(
    "repeatable", derandomize=True, max_examples=150, deadline=None, database=None
)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def no_report_at_the_end() -> Iterator[None]:
    """Runs of main.py in the test process write no report, which takes seconds.

    tests/report/test_at_end.py calls the real function.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("report.at_end.write_report_at_end", lambda *args: None)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))

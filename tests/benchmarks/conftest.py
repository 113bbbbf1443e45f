"""The tiny settings of benchmarks with a narrow backbone: their numbers mean nothing."""

import pytest

from benchmarks.cuda import smoke
from benchmarks.harness import inputs
from tests.narrow_resnet import NARROW


@pytest.fixture(autouse=True)
def narrow_backbone(monkeypatch):
    flags_of = inputs.flags_of
    for module in (inputs, smoke):
        monkeypatch.setattr(
            module, "flags_of", lambda text: flags_of(text.replace("resnet18", NARROW))
        )

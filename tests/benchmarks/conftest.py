"""The tiny settings of benchmarks with a narrow backbone: their numbers mean nothing."""

import pytest

from benchmarks.harness import inputs
from tests.narrow_resnet import NARROW


@pytest.fixture(autouse=True)
def narrow_backbone(monkeypatch):
    flags_of = inputs.flags_of
    monkeypatch.setattr(inputs, "flags_of", lambda text: flags_of(text.replace("resnet18", NARROW)))

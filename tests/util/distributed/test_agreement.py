"""Facts that differ between ranks: refused, or a warning where all ranks skip the checks."""

import argparse

import pytest
import torch

from util.distributed import agreement
from util.errors import UserError


def compare(monkeypatch, second, *skips):
    gathered = [({"data": "3 images"}, skips[0]), ({"data": second}, skips[1])]
    monkeypatch.setattr(agreement, "all_gather", lambda own: gathered)
    agreement.require_same({"data": "3 images"}, skips[0])


@pytest.mark.parametrize("skips", [(False, False), (True, False), (False, True)])
def test_a_difference_is_refused_unless_all_ranks_skip_the_checks(monkeypatch, skips):
    with pytest.raises(UserError, match="data: 3 images on rank 0, 4 images on rank 1; give every"):
        compare(monkeypatch, "4 images", *skips)


def test_a_difference_may_be_skipped(monkeypatch, capsys):
    compare(monkeypatch, "4 images", True, True)
    assert "Warning (--skip_checks): data: 3 images on rank 0" in capsys.readouterr().out


def test_equal_facts_need_no_word(monkeypatch, capsys):
    compare(monkeypatch, "3 images", False, False)
    assert capsys.readouterr().out == ""


CONTENTS = [
    {"a": 1, "b": 2},
    {"a": 2, "b": 1},
    {"b": 1, "c": 2},
    [1, 2],
    (1, 2),
    [[1], 2],
    torch.zeros(2, 3),
    torch.zeros(3, 2),
    torch.zeros(6),
    torch.zeros(6, dtype=torch.int32),
    {"model": {"weight": torch.ones(2)}},
    {"model": {"weight": torch.tensor([1.0, 1.0 + 2**-20])}},
    {"model": {"bias": torch.ones(2)}},
]


def test_different_contents_have_different_fingerprints():
    found = [agreement.fingerprint(content) for content in CONTENTS]
    assert len(set(found)) == len(CONTENTS) and all(len(digits) == 8 for digits in found)


def test_equal_contents_have_the_same_fingerprint():
    weights = torch.arange(24.0).reshape(1, 2, 3, 4)
    flags = {"lr": 1e-4, "scales": [64]}
    first = {"model": weights, "args": argparse.Namespace(**flags)}
    second = {"model": weights.contiguous(memory_format=torch.channels_last), "args": flags}
    assert agreement.fingerprint(first) == agreement.fingerprint(second)

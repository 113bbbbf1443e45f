"""Renaming by pairs of patterns."""

import pytest
import torch

from export.key_names import Renaming, inside_detector, rename_all, with_prefixes
from util.errors import UserError

RENAMING = Renaming(
    [
        ("layer{i}.{k}.conv{j}.{rest*}", "stages.{i-1}.{k}.conv.{j-1}.{rest*}"),
        ("norm.{rest*}", "last.norm.{rest*}"),
    ]
)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("layer1.0.conv2.weight", "stages.0.0.conv.1.weight"),
        ("layer10.12.conv1.a.b", "stages.9.12.conv.0.a.b"),
        ("norm.bias", "last.norm.bias"),
    ],
)
def test_names_go_both_ways(ours, theirs):
    assert RENAMING.to_theirs(ours) == theirs
    assert RENAMING.to_ours(theirs) == ours


@pytest.mark.parametrize("key", ["xlayer1.0.conv2.weight", "layera.0.conv2.weight", "normal.bias"])
def test_other_keys_have_no_name(key):
    assert RENAMING.to_theirs(key) is None


def test_a_dot_is_a_dot():
    assert Renaming([("a.b", "c")]).to_theirs("axb") is None


def test_the_first_pair_wins():
    renaming = Renaming([("a.{x*}", "first.{x*}"), ("{x*}", "second.{x*}")])
    assert renaming.to_theirs("a.b") == "first.b"
    assert renaming.to_theirs("b") == "second.b"


def test_prefixes():
    assert with_prefixes([("a", "b")], "ours.", "theirs.") == [("ours.a", "theirs.b")]


def test_keys_of_a_detector_inside_keep_their_prefix():
    rename = inside_detector(RENAMING.to_theirs)
    assert rename("detr.norm.bias") == "detr.last.norm.bias"
    assert rename("norm.bias") == "last.norm.bias"
    assert rename("detr.other") is None


def test_a_key_without_a_name_is_named():
    state = {"norm.bias": torch.ones(2)}
    assert torch.equal(rename_all(state, RENAMING.to_theirs, "f")["last.norm.bias"], torch.ones(2))
    with pytest.raises(UserError, match=r"f\.pth: 1 keys cannot be converted, the first is x"):
        rename_all({**state, "x": torch.ones(2)}, RENAMING.to_theirs, "f.pth")

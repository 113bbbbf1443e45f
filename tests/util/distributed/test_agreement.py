"""Facts that differ between ranks: refused, or a warning where all ranks skip the checks."""

import pytest

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

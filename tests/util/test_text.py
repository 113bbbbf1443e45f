"""Nouns in the plural."""

from util.text import count


def test_nouns_have_their_number():
    assert [count(n, "segment") for n in (0, 1, 2)] == ["0 segments", "1 segment", "2 segments"]

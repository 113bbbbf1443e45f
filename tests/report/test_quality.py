"""Labels of the figures of an evaluation."""

from report.quality import short_name


def test_long_names_keep_their_beginning_and_their_end():
    names = {
        1: "cat",
        2: "traffic sign, speed limit 30",
        3: "traffic sign, speed limit 50",
        4: "a\n b",
    }
    assert [short_name(names, i) for i in (1, 4, 5)] == ["cat", "a b", "5"]
    assert short_name(names, 2) == "traffic sign, …imit 30"
    assert len(short_name(names, 2)) == 22 and short_name(names, 2) != short_name(names, 3)

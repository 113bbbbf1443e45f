"""The progress line: on a terminal only, and gone at the end."""

import io

from datasets.check.progress import with_progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_items_pass_and_nothing_is_written_to_a_file():
    stream = io.StringIO()
    assert list(with_progress(range(5), "images", 5, stream)) == [0, 1, 2, 3, 4]
    assert stream.getvalue() == ""


def test_a_terminal_shows_count_speed_and_time_left(monkeypatch):
    clock = iter(range(0, 100, 2))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    stream = Terminal()
    assert list(with_progress(range(3), "images", 5, stream)) == [0, 1, 2]
    assert "images 2/5  0/s  eta 0:00:06" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_the_line_is_gone_after_an_error():
    def broken():
        yield 1
        raise KeyError

    stream = Terminal()
    try:
        list(with_progress(broken(), "images", 5, stream))
    except KeyError:
        assert stream.getvalue().endswith("\r\x1b[K")
    else:
        raise AssertionError("the error is lost")

"""Lines of pycocotools are shown on a terminal only until the next line."""

import io

import pytest
from pycocotools.coco import COCO

from tests.terminals import Terminal
from util.terminal.transient_lines import transient_lines


def load():
    print("loading annotations into memory...")
    print("Done (t=0.02s)")
    index = COCO()
    index.dataset = {"images": []}
    index.createIndex()


def test_a_file_does_not_get_them(capsys):
    with transient_lines():
        load()
        print("Warning: odd", "data")
        print("no end", end="")
    print(".")
    assert capsys.readouterr().out == "Warning: odd data\nno end.\n"


def test_a_terminal_shows_each_until_the_next():
    with Terminal() as terminal:
        with transient_lines():
            load()
            print("Warning: odd data")
            load()
        print("training …")
    text = terminal.text()
    assert "index created!\r" in text and "loading annotations into memory...\r" in text
    assert text.replace("\r\n", "\n").endswith("index created!\r\x1b[Ktraining …\n")
    assert text.count("\n") == 2


def test_stdout_is_given_back_after_an_error(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    with pytest.raises(KeyError), transient_lines():
        raise KeyError
    print("after")
    assert stream.getvalue() == "after\n"

"""Lists in text files, from any system."""

import pytest

from datasets.formats.text_files import filled_lines, read_names
from tests.datasets.format_cases import write_text
from util.errors import UserError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_byte_order_mark(tmp_path, encoding, end):
    path = write_text(tmp_path / "names.txt", f" cat{end}{end}big dog {end}émeu", encoding)
    assert read_names(path) == ["cat", "big dog", "émeu"]
    assert filled_lines(path) == [(1, "cat"), (3, "big dog"), (4, "émeu")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\n \n", "names.txt has no class names; write one per line"),
        (b"cat\n\ndog\ncat\n", "names.txt, line 4: class 'cat' is also in line 1"),
        (b"caf\xe9\n", "names.txt is not UTF-8 text; save it as UTF-8"),
    ],
)
def test_what_is_no_list_of_names(tmp_path, content, says):
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_names(tmp_path / "names.txt")
    assert says in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"gone.txt cannot be read"):
        read_names(tmp_path / "gone.txt")

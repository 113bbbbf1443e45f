"""Files read in blocks have the same rows as with json; irregular files are refused."""

import contextlib
import json

import hypothesis
import pytest
from hypothesis import strategies as st

from datasets.annotations.compact import json_blocks
from datasets.annotations.compact.json_blocks import IrregularError, TableHandler, read_blocks
from tests.datasets.json_strategies import TABLES, TEXTS, VALUES

ROWS = st.lists(
    st.dictionaries(st.sampled_from(["id", "bbox", "}, {"]) | TEXTS, VALUES, max_size=3), max_size=9
)
FILES = st.dictionaries(TEXTS, VALUES, max_size=2).flatmap(
    lambda others: st.fixed_dictionaries(dict.fromkeys(TABLES, ROWS) | {"info": st.just(others)})
)
LAYOUTS = st.fixed_dictionaries(
    {
        "indent": st.sampled_from([None, 1]),
        "separators": st.sampled_from([None, (",", ":"), (" , ", " : ")]),
        "ensure_ascii": st.booleans(),
    }
)


# Also blocks of a few bytes, so that every position of a file is the end of a block.
BLOCKS = (7, 60, 1 << 20)


@contextlib.contextmanager
def blocks_of(size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_blocks, "_BLOCK", size)
        patch.setattr(json_blocks, "_VALUE", size)
        yield


@pytest.fixture(params=BLOCKS)
def block(request):
    with blocks_of(request.param):
        yield


def content_of(path):
    """The content of a file, from its blocks; the encoded rows must be the rows."""
    tables = {table: [] for table in TABLES}

    def receiver(table):
        def receive(block):
            places = zip(block.starts.tolist(), block.ends.tolist(), strict=True)
            encoded = [json.loads(block.text[start:end]) for start, end in places]
            assert json.dumps(encoded) == json.dumps(block.rows)
            tables[table] += block.rows

        return receive

    handlers = {table: TableHandler(receiver(table)) for table in TABLES}
    return {**read_blocks(path, handlers), **tables}


def write(path, data, layout):
    text = json.dumps(data, **layout)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("blocks") / "any.json"


def contents_of(path):
    """The content read in blocks of each size, as text; None where the file is refused."""
    for size in BLOCKS:
        with blocks_of(size):
            try:
                yield json.dumps(content_of(path), sort_keys=True)
            except IrregularError:
                yield None


# Files of any kind take longer to think up than to read: each is read in blocks of all sizes.


@hypothesis.settings(max_examples=60)
@hypothesis.given(data=FILES, layout=LAYOUTS)
def test_blocks_hold_what_json_finds(path, data, layout):
    write(path, data, layout)
    try:
        expected = json.dumps(json.loads(path.read_text(encoding="utf-8")), sort_keys=True)
    except ValueError:  # half of a UTF-16 pair
        expected = None
    assert list(contents_of(path)) == [expected] * len(BLOCKS)


@hypothesis.settings(max_examples=60)
@hypothesis.given(data=FILES, layout=LAYOUTS, cut=st.floats(0, 1), insert=st.binary(max_size=2))
def test_a_damaged_file_is_never_taken_for_another(path, data, layout, cut, insert):
    write(path, data, layout)
    intact = path.read_bytes()
    place = int(cut * len(intact))
    path.write_bytes(intact[:place] + insert + intact[place + 1 :])
    for found in contents_of(path):
        if found is not None:
            # The damage may be in the name of the table "annotations", which may be missing.
            expected = {"annotations": [], **json.loads(path.read_text(encoding="utf-8-sig"))}
            assert found == json.dumps(expected, sort_keys=True)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"images": [], "categories": []',
        '{"images": [], "categories": []} x',
        '{"images": [], "categories": [],}',
        '{"images": [{}, ], "categories": []}',
        '{"images": [{} {}], "categories": []}',
        '{"images": [1], "categories": []}',
        '{"images": {}, "categories": []}',
        '{"images": [], "categories": [], "images": []}',
        '{"images": [{"a": ' + "[" * 20_000 + '], "categories": []}',
    ],
)
def test_what_is_not_regular(path, text):
    path.write_text(text)
    with pytest.raises(IrregularError):
        content_of(path)


@pytest.mark.usefixtures("block")
def test_tables_in_any_order_with_a_mark_and_without_annotations(path):
    path.write_bytes(b'\xef\xbb\xbf {"categories": [{"id": 1}], "a": 12, "images": [{}] } \n')
    expected = {"categories": [{"id": 1}], "a": 12, "images": [{}], "annotations": []}
    assert content_of(path) == expected


@pytest.mark.usefixtures("block")
def test_a_missing_file_is_not_hidden(tmp_path):
    with pytest.raises(FileNotFoundError):
        content_of(tmp_path / "gone.json")

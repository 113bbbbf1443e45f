"""Files read in blocks have the same rows as with json; irregular files are refused."""

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


@pytest.fixture(autouse=True, params=[7, 60, 1 << 20])
def block(request, monkeypatch):
    """Blocks of a few bytes, so that every position of a file is the end of a block."""
    monkeypatch.setattr(json_blocks, "_BLOCK", request.param)
    monkeypatch.setattr(json_blocks, "_VALUE", request.param)


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


SLOW_FIXTURE = hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], max_examples=60
)


@SLOW_FIXTURE
@hypothesis.given(data=FILES, layout=LAYOUTS)
def test_blocks_hold_what_json_finds(path, data, layout):
    write(path, data, layout)
    try:
        expected = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # half of a UTF-16 pair
        with pytest.raises(IrregularError):
            content_of(path)
    else:
        assert json.dumps(content_of(path), sort_keys=True) == json.dumps(expected, sort_keys=True)


@SLOW_FIXTURE
@hypothesis.given(data=FILES, layout=LAYOUTS, cut=st.floats(0, 1), insert=st.binary(max_size=2))
def test_a_damaged_file_is_never_taken_for_another(path, data, layout, cut, insert):
    write(path, data, layout)
    intact = path.read_bytes()
    place = int(cut * len(intact))
    path.write_bytes(intact[:place] + insert + intact[place + 1 :])
    try:
        found = content_of(path)
    except IrregularError:
        return
    # The damage may be in the name of the table "annotations", which may be missing.
    expected = {"annotations": [], **json.loads(path.read_text(encoding="utf-8-sig"))}
    assert json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)


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


def test_tables_in_any_order_with_a_mark_and_without_annotations(path):
    path.write_bytes(b'\xef\xbb\xbf {"categories": [{"id": 1}], "a": 12, "images": [{}] } \n')
    expected = {"categories": [{"id": 1}], "a": 12, "images": [{}], "annotations": []}
    assert content_of(path) == expected


def test_a_missing_file_is_not_hidden(tmp_path):
    with pytest.raises(FileNotFoundError):
        content_of(tmp_path / "gone.json")

"""JSON written entry by entry."""

import json

from prediction.outputs.json_files import StreamedJson


def test_a_list_alone(tmp_path):
    file = StreamedJson(tmp_path / "a.json")
    file.add({"a": 1})
    file.add({"a": 2})
    assert not (tmp_path / "a.json").exists()
    file.close()
    assert json.loads((tmp_path / "a.json").read_text()) == [{"a": 1}, {"a": 2}]
    assert (tmp_path / "a.json").read_text().count("\n") == 4  # an entry per line
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_list_in_an_object(tmp_path):
    file = StreamedJson(tmp_path / "a.json", {"b": [1]}, "rows")
    file.close({"c": None})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": [1], "rows": [], "c": None}


def test_a_file_of_an_earlier_run_is_kept_until_the_end(tmp_path):
    (tmp_path / "a.json").write_text("old")
    file = StreamedJson(tmp_path / "a.json", {}, "rows")
    file.add({"name": "\udcff"})
    assert (tmp_path / "a.json").read_text() == "old"
    file.close()
    assert json.loads((tmp_path / "a.json").read_text()) == {"rows": [{"name": "\udcff"}]}

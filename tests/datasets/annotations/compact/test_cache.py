"""The cache of annotation files: written once, shared, never wrong, never in the way."""

import json
import os
import pickle
import threading
import time

import numpy as np
import pytest

from datasets.annotations.compact import cache, instances, tables
from datasets.annotations.compact.instances import Instances
from datasets.annotations.compact.json_blocks import IrregularError
from tests.datasets.annotations.compact.test_instances import random_file
from tests.datasets.json_strategies import write_json


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty cache that takes files of any size."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cache, "_SMALLEST_CACHED", 0)
    return tmp_path / "home" / "detr_annotations"


@pytest.fixture
def ann_file(tmp_path):
    write_json(tmp_path / "a.json", random_file(0))
    return tmp_path / "a.json"


@pytest.fixture
def readings(monkeypatch):
    """Files that are read: one entry for each time."""
    found = []
    read = tables.read_blocks

    def count(path, receivers):
        found.append(path)
        return read(path, receivers)

    monkeypatch.setattr(tables, "read_blocks", count)
    return found


def entries(home):
    return sorted(path for path in home.iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize("seed", [0, None])
def test_an_entry_holds_the_file(tmp_path, home, readings, seed):
    data = random_file(seed) if seed is not None else random_file(0) | {"annotations": []}
    write_json(tmp_path / "a.json", data)
    first, second = (Instances(tmp_path / "a.json") for _ in range(2))
    assert len(readings) == 1 and len(entries(home)) == 1
    expected = Instances(data).tables()
    assert first.tables() == second.tables() == expected
    assert isinstance(second.bbox, np.memmap)
    copied = pickle.loads(pickle.dumps(second))  # as for a DataLoader worker that is not forked
    assert copied.tables() == expected
    assert isinstance(copied.bbox, np.memmap) and copied.bbox.filename == second.bbox.filename


def test_a_part_of_an_entry_is_copied_to_other_processes(home, ann_file):
    boxes = Instances(ann_file).bbox
    for part in (boxes[1:], boxes + 1, np.asarray(boxes)):
        assert np.array_equal(pickle.loads(pickle.dumps(part)), part)
        assert len(pickle.dumps(part)) > part.nbytes
    assert len(pickle.dumps(boxes)) < 1000


def test_small_files_are_not_cached(home, ann_file, readings, monkeypatch):
    monkeypatch.setattr(cache, "_SMALLEST_CACHED", ann_file.stat().st_size + 1)
    Instances(ann_file), Instances(ann_file)
    assert len(readings) == 2 and not home.exists()


def test_each_kind_of_data_has_its_own_entry(home, ann_file):
    for kind in ("instances", "panoptic") * 2:

        def write(rows, kind=kind):
            rows.write(kind.encode())
            return {}, kind

        assert cache.cached(ann_file, kind, write).other_keys == kind
    assert len(entries(home)) == 2


def test_a_changed_file_has_another_entry_and_a_copy_the_same(home, ann_file, readings, tmp_path):
    before = Instances(ann_file).tables()
    status = ann_file.stat()
    changed = ann_file.read_text().replace('"cat"', '"dog"')
    ann_file.write_text(changed)
    os.utime(ann_file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert ann_file.stat().st_size == status.st_size
    after = Instances(ann_file).tables()
    assert [found["categories"][0]["name"] for found in (before, after)] == ["cat", "dog"]
    (tmp_path / "copy.json").write_text(changed)
    assert Instances(tmp_path / "copy.json").tables() == after
    assert len(readings) == len(entries(home)) == 2


@pytest.mark.parametrize("damage", ["truncate", "remove", "empty", "no json", "wrong json"])
def test_a_damaged_entry_is_written_again(home, ann_file, readings, damage):
    expected = Instances(ann_file).tables()
    (entry,) = entries(home)
    files = sorted(path for path in entry.iterdir() if path.name != "rest.json")
    for path in files if damage in ("truncate", "remove", "empty") else [entry / "rest.json"]:
        content = path.read_bytes()
        if damage == "remove":
            path.unlink()
        else:
            path.write_bytes(
                {"truncate": content[:-1], "empty": b"", "no json": b"{"}.get(damage, b"[]")
            )
        assert Instances(ann_file).tables() == expected
    assert len(readings) == 1 + (1 if "json" in damage else len(files))
    assert entries(home) == [entry]


def test_an_entry_that_is_removed_while_it_is_used(home, ann_file):
    found = Instances(ann_file)
    (entry,) = entries(home)
    for path in entry.iterdir():
        path.unlink()
    assert found.tables() == Instances(random_file(0)).tables()


def test_processes_that_need_the_same_entry_write_it_once(home, ann_file, readings):
    start, found = threading.Barrier(4), []

    def read():
        start.wait()
        found.append(Instances(ann_file).tables())

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(readings) == 1 and len(entries(home)) == 1
    assert found == [Instances(random_file(0)).tables()] * 4


def warns(ann_file, caplog):
    """Read a file in spite of the cache; return the warning."""
    assert Instances(ann_file).tables() == Instances(random_file(0)).tables()
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith(f"{ann_file} is not cached (") and "TORCH_HOME" in message
    return message


def test_a_folder_that_cannot_be_written(home, ann_file, caplog):
    home.parent.write_text("a file")
    assert "Not a directory" in warns(ann_file, caplog)


def test_a_full_disk(home, ann_file, caplog, monkeypatch):
    def save(path, array, **_):
        path.write_bytes(b"partly")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", save)
    assert "No space left" in warns(ann_file, caplog)
    assert entries(home) == []


def test_a_file_that_changes_while_it_is_read(home, ann_file, caplog, monkeypatch):
    finish = instances._KIND.finish

    def write_meanwhile(*args):
        os.utime(ann_file, (1, 1))
        return finish(*args)

    monkeypatch.setattr(instances, "_KIND", instances._KIND._replace(finish=write_meanwhile))
    assert "changed while it was read" in warns(ann_file, caplog)
    assert entries(home) == []


def test_an_invalid_file_leaves_no_entry(home, ann_file):
    data = json.loads(ann_file.read_text())
    data["annotations"][0]["bbox"] = []
    write_json(ann_file, data)
    with pytest.raises(IrregularError):
        Instances(ann_file)
    assert entries(home) == []


def test_entries_that_were_not_used_for_a_month_are_removed(home, ann_file, tmp_path):
    Instances(ann_file)
    (used,) = entries(home)
    old = home / "instances-0-old"
    old.mkdir()
    for path in (old, used / "rest.json"):
        os.utime(path, (time.time() - 31 * 24 * 3600,) * 2)
    Instances(ann_file)  # used again
    write_json(tmp_path / "b.json", random_file(1))
    Instances(tmp_path / "b.json")
    assert used in entries(home) and old not in entries(home) and len(entries(home)) == 2

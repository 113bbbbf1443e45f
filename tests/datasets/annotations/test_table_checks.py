"""File names, sizes and values that no sane file holds are told in one short line."""

import logging
import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from datasets.annotations.segmentations import MAX_MASK_PIXELS
from datasets.annotations.table_checks import (
    AnnotationFileError,
    FileProblems,
    check_files_exist,
    check_image_sizes,
    check_labels_below,
    check_mask_memory,
    is_file_name,
    is_id,
    leads_outside,
    warn_about_paths,
)
from util.errors import UserError
from util.files.image_files import MAX_PIXELS, MAX_SIDE


def images_named(*names: Any) -> list[dict[str, Any]]:
    return [{"id": number, "file_name": name} for number, name in enumerate(names, start=1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("images/1.png", "images/sub/2.png", "other/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path / "images"


def missing(folder: Path, *names: Any) -> list[Any]:
    found = FileProblems("a.json")
    check_files_exist(found, "images", images_named(*names), folder)
    return [row["file_name"] for problem in found.problems for row in problem.rows]


def test_files_that_are_there(folder):
    absolute = str(folder / "1.png")
    assert missing(folder, "1.png", "sub/2.png", "../other/3.png", "sub/../1.png", absolute) == []


def test_the_number_of_classes_that_is_needed():
    found = FileProblems("a.json")
    rows = [{"id": 1, "category_id": 1}]
    check_labels_below(found, "annotations", rows, 1, [])
    check_labels_below(found, "annotations", rows, 1, [{"id": 1}, {"id": 3}, {"id": "x"}])
    check_labels_below(found, "annotations", rows, 2, [{"id": 3}])
    needed = [problem.fix.partition(";")[0] for problem in found.problems]
    told = "--num_classes 1 is too small: the largest category id is"
    assert needed == [f"{told} 1, so 2 are needed", f"{told} 3, so 4 are needed"]


def fix(folder: Path, *names: Any) -> str:
    found = FileProblems("a.json")
    check_files_exist(found, "images", images_named(*names), folder, "--val_images")
    (problem,) = found.problems
    with pytest.raises(AnnotationFileError) as caught:
        found.raise_if_any()
    assert str(caught.value).startswith("a.json: ")  # the file itself may be right
    assert str(caught.value).endswith(f"; {problem.fix}")
    return problem.fix


def test_missing_files_come_with_the_way_out(folder):
    assert fix(folder, "3.png").endswith(f"use --val_images {folder.parent / 'other'}")
    # Another folder would have the missing file, but not the first.
    assert "--val_images" not in fix(folder, "1.png", "3.png")


@pytest.mark.parametrize(
    "name",
    [
        *("x", "sub", "sub/", ".", "..", "/", "1.png/", "1.png/2.png", "gone/1.png", "sub/1.png"),
        *("x" * 300, "x" * 300 + "/1.png", "x/" * 3000 + "1.png", "\udc80.png", "\udc80/1.png"),
    ],
)
def test_files_that_are_not_there(folder, name):
    assert missing(folder, "1.png", name) == [name]


@pytest.mark.parametrize("name", ["a\0.png", "a\0/b.png", "\ud800.png", "", None, 3, ["1.png"]])
def test_what_is_no_file_name(folder, name):
    assert not is_file_name(name)
    assert missing(folder, name) == []  # told as a wrong name


def test_a_circle_of_links_holds_no_file(folder):
    (folder / "loop").symlink_to("loop")
    assert missing(folder, "loop/1.png") == ["loop/1.png"]


def test_a_folder_that_may_not_be_listed(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=rf"^folder {folder}/ cannot be listed \(Permission denied"):
        missing(folder, "1.png")


@pytest.mark.parametrize(
    ("name", "is_outside"),
    [
        ("1.png", False),
        ("sub/2.png", False),
        ("a..b.png", False),
        ("sub/../1.png", False),
        ("../images/1.png", False),
        ("../other/3.png", True),
        ("sub/../../other/3.png", True),
        ("/etc/passwd", True),
        ("../images2/1.png", True),
    ],
)
def test_paths_out_of_the_folder(folder, name, is_outside):
    assert leads_outside(name, folder) == is_outside
    assert leads_outside(str(folder / name), folder) == is_outside


def test_a_folder_given_relatively(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert leads_outside("../other/3.png", "images")
    assert not leads_outside(str(folder / "1.png"), "images")


def test_paths_out_of_the_folder_are_reported_once(folder, caplog):
    names = ["1.png", *(f"../other/{number}.png" for number in range(5)), "/abs.png"]
    with caplog.at_level(logging.WARNING):
        warn_about_paths("a.json", "images", images_named(*names), folder)
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith("a.json: 6 images have a file_name that points outside ")
    assert "image id 2 (file_name '../other/0.png')" in text
    assert text.endswith("and 3 more")
    caplog.clear()
    warn_about_paths("a.json", "images", images_named("1.png"), folder)
    assert not caplog.records


@pytest.mark.parametrize(
    ("size_wh", "says"),
    [
        ((MAX_SIDE, 1), None),
        ((MAX_SIDE, MAX_PIXELS // MAX_SIDE), None),
        ((MAX_SIDE, MAX_PIXELS // MAX_SIDE + 1), "width times height above"),
        ((10**9, 10**9), "invalid width"),
        ((10**400, 5), "invalid width"),
        ((5, -5), "invalid height"),
        ((5.0, 5), "invalid width"),
        ((5, None), "has no height"),
    ],
)
def test_sizes_of_images(size_wh, says):
    found = FileProblems("a.json")
    check_image_sizes(found, [{"id": 1, "width": size_wh[0], "height": size_wh[1]}])
    assert [says in str(problem) for problem in found.problems][:1] == ([] if says is None else [1])


@pytest.mark.parametrize(("objects", "fits"), [(0, True), (4, True), (5, False)])
def test_masks_must_fit_into_memory(objects, fits):
    found = FileProblems("a.json")
    row = {"id": 1, "width": 2**15, "height": MAX_MASK_PIXELS // 2**17}
    check_mask_memory(found, [row, {"id": [], "width": 1, "height": 1}], Counter({1: objects}))
    assert (found.problems == []) == fits


@pytest.mark.parametrize(
    ("value", "valid"),
    [(2**63 - 1, True), (-(2**63) + 1, True), (2**63, False), (10**400, False), (True, False)],
)
def test_ids_fit_into_a_tensor(value, valid):
    assert is_id(value) == valid


def test_problems_stay_with_the_error_and_survive_a_worker():
    found = FileProblems("a.json")
    rows = images_named(3, 4)
    found.add("images", rows, "are odd", "file_name")
    found.add("images", [], "are not there")
    with pytest.raises(AnnotationFileError) as caught:
        found.raise_if_any()
    (problem,) = caught.value.problems
    assert problem == ("images", rows, "are odd", "file_name", "")
    message = "a.json must be corrected: 2 images are odd: "
    message += "image id 1 (file_name 3), image id 2 (file_name 4)"
    assert str(caught.value) == message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message

"""Checks of file names: missing files, files outside the folder, invalid names."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from datasets.annotations.coco_file import is_file_name
from datasets.annotations.file_checks import (
    check_files_exist,
    leads_outside,
    warn_about_paths,
)
from datasets.annotations.table_checks import AnnotationFileError, TableChecks
from util.errors import UserError


def images_named(*names: Any) -> list[dict[str, Any]]:
    return [{"id": number, "file_name": name} for number, name in enumerate(names, start=1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("images/1.png", "images/sub/2.png", "other/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path / "images"


def missing(folder: Path, *names: Any) -> list[Any]:
    found = TableChecks("a.json")
    check_files_exist(found, "images", images_named(*names), folder)
    return [row["file_name"] for problem in found.problems for row in problem.rows]


def test_files_that_are_there(folder):
    absolute = str(folder / "1.png")
    assert missing(folder, "1.png", "sub/2.png", "../other/3.png", "sub/../1.png", absolute) == []


def fix(folder: Path, *names: Any) -> str:
    found = TableChecks("a.json")
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
    assert missing(folder, name) == []  # reported as an invalid name


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
    names = [*(f"../other/{number}.png" for number in range(5)), "/abs.png"]
    with caplog.at_level(logging.WARNING):
        warn_about_paths("a.json", "images", images_named(*names), folder)
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith("a.json: 6 images have a file_name that points outside ")
    assert "image id 1 (file_name '../other/0.png')" in text
    assert text.endswith("and 3 more")
    caplog.clear()
    warn_about_paths("a.json", "images", [], folder)
    assert not caplog.records

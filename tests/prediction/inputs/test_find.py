"""Inputs of a command line: files, folders, patterns, videos and cameras."""

import os

import pytest

from prediction.inputs.find import find_inputs, ignored_files, warn_of_output_inside
from util.errors import UserError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in (
        "a.jpg",
        "b.PNG",
        "notes.txt",
        "sub/c.jpg",
        "sub/deep/a.jpg",
        ".hidden/x.jpg",
        "._a.jpg",
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "clip.mp4").touch()
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*arguments, output_dir="out"):
    return [one.name for one in find_inputs(arguments, output_dir)[0]]


def test_a_folder_is_searched_with_its_sub_folders(tree):
    inputs, others = find_inputs(["photos"], "out")
    assert [one.name for one in inputs] == ["a.jpg", "b.PNG", "sub/c.jpg", "sub/deep/a.jpg"]
    assert [one.path for one in inputs][:2] == ["photos/a.jpg", "photos/b.PNG"]
    assert others == ["photos/notes.txt"]


def test_linked_folders_are_searched_once(tree):
    (tree / "disk").mkdir()
    (tree / "disk" / "d.jpg").touch()
    for name in ("linked", "linked_again"):
        (tree / "photos" / name).symlink_to(tree / "disk")
    (tree / "photos" / "a_link").symlink_to(tree / "photos" / "sub")
    (tree / "photos" / "sub" / "loop").symlink_to("..")
    (tree / "disk" / "up").symlink_to(tree)
    expected = ["a.jpg", "b.PNG", "linked/d.jpg", "sub/c.jpg", "sub/deep/a.jpg"]
    assert sorted(names("photos")) == expected


def test_files_that_are_ignored_are_named_by_their_suffix(tree):
    for name in ("a.HEIC", "b.heic", "film.MOV", "README"):
        (tree / "photos" / name).touch()
    expected = "5 files ignored: no image suffix (.heic 2, none 1, .mov 1 and 1 more)"
    printed = ignored_files(find_inputs(["photos"], "out")[1])
    assert printed == f"{expected}; give videos themselves, such as photos/film.MOV"
    assert "film.MOV" not in ignored_files(find_inputs(["photos", "photos/film.MOV"], "out")[1])
    (tree / "phone").mkdir()
    (tree / "phone" / "a.heic").touch()
    with pytest.raises(UserError, match=r"no images in phone \(1 file ignored: .* \(.heic 1\)\)"):
        find_inputs(["phone"], "out")


def test_files_are_taken_whatever_their_names(tree):
    assert names("photos/a.jpg", "photos/notes.txt") == ["a.jpg", "notes.txt"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("photos/*.jpg", ["a.jpg"]),
        ("photos/**/*.jpg", ["a.jpg", "sub/c.jpg", "sub/deep/a.jpg"]),
        ("photos/*", ["a.jpg", "b.PNG", "sub/c.jpg", "sub/deep/a.jpg"]),
        ("photos/**", ["a.jpg", "b.PNG", "sub/c.jpg", "sub/deep/a.jpg"]),
        ("*.mp4", ["clip.mp4"]),
    ],
)
def test_patterns(pattern, expected, tree):
    assert names(pattern) == expected


def test_a_file_named_twice_is_predicted_once(tree):
    assert names("photos/a.jpg", "photos", "./photos/a.jpg", "photos/*.jpg")[0] == "a.jpg"
    assert len(names("photos/a.jpg", "photos")) == 4


def test_equal_names_get_their_folders(tree):
    assert names("photos/a.jpg", "photos/sub/deep/a.jpg") == ["a.jpg", "sub/deep/a.jpg"]


def test_videos_and_cameras(tree):
    inputs, _ = find_inputs(["clip.mp4", "0", "photos/a.jpg"], "out")
    assert [one.is_video for one in inputs] == [True, True, False]
    assert inputs[1].name == "camera0"


def test_the_output_folder_is_no_input(tree):
    (tree / "out/pictures").mkdir()
    (tree / "out/pictures/a.jpg").touch()
    assert not any("out" in name for name in names("."))
    assert "out/pictures/a.jpg" not in names("**/*.jpg")
    for argument in ("out/pictures/a.jpg", "out"):
        with pytest.raises(UserError, match=r"is inside --output_dir .*out"):
            find_inputs([argument], "out")
    os.symlink(tree / "out/pictures/a.jpg", tree / "link.jpg")
    with pytest.raises(UserError, match="is inside --output_dir"):
        find_inputs(["link.jpg"], "out")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("photos/no.jpg", "photos/no.jpg does not exist"),
        ("photos/*.gif", r"no file matches the pattern photos/\*.gif"),
        ("out", "no images in out"),
    ],
)
def test_an_argument_that_names_nothing(argument, message, tree):
    with pytest.raises(UserError, match=message):
        find_inputs([argument], "elsewhere")


def test_an_output_folder_inside_an_input_is_warned_of(tmp_path, capsys):
    warn_of_output_inside([str(tmp_path)], tmp_path / "out")
    assert "training on this folder would use" in capsys.readouterr().out
    (tmp_path / "photos").mkdir()
    warn_of_output_inside([str(tmp_path / "photos"), "a.jpg", "0"], tmp_path / "out")
    assert capsys.readouterr().out == ""

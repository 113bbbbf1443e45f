"""Files that are somewhere else than the annotation file and the flags say."""

from pathlib import Path

import pytest

from datasets.annotations.file_checks import explain_missing_files

NAMES = ["1.jpg", "2.jpg"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "far_from" / "other_tests" / "root"  # parent folders are searched
    for name in NAMES:
        for folder in ("images/train", "other data"):
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (root / folder / name).touch()
    return root


def explain(folder: Path, *names: str, flag: str | None = "--train_images") -> str:
    text = explain_missing_files(names, folder, flag)
    assert "\n" not in text
    return text


def test_a_prefix_that_the_folder_has_already(root):
    for folder, prefix in (("images", "images/"), ("images/train", "images/train/")):
        text = explain(root / folder, *(f"images/train/{name}" for name in NAMES))
        assert text.startswith(f"every file_name already begins with {prefix}: ")
        assert text.endswith(f": use --train_images {root}")


@pytest.mark.parametrize("folder", ["", "images", "images/val", "labels/gone"])
def test_a_folder_nearby(root, folder):
    (root / "images" / "val").mkdir()
    for name in NAMES:
        (root / "other data" / name).unlink()
    text = explain(root / folder, *NAMES, flag="--val_images")
    if folder == "labels/gone":  # as far away as is searched
        assert "use --val_images" not in text
    else:
        assert (
            text == f"the files exist in {root}/images/train: use --val_images {root}/images/train"
        )


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_and_the_other_split_come_last(tmp_path, split):
    for folder in ("panoptic_train", "masks", "train", "val"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.jpg").touch()
    flag = f"--{split}_images"
    assert explain(tmp_path, "1.jpg", flag=flag).endswith(f"use {flag} {tmp_path}/{split}")


def test_parents_come_before_other_folders(root):
    for name in NAMES:
        (root / "a/images/train" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "a/images/train" / name).touch()
    text = explain(root / "images", *(f"images/train/{name}" for name in NAMES))
    assert text.endswith(f": use --train_images {root}")


def test_a_name_with_a_space_is_quoted(root):
    (root / "images/train/1.jpg").unlink()
    assert explain(root, *NAMES).endswith(f"use --train_images '{root}/other data'")


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["data/1.jpg", "data/2.jpg"], "data/"),
        (["/home/bob/1.jpg", "/home/bob/2.jpg"], "/home/bob/"),
        (["C:\\data\\1.jpg", "C:\\data\\2.jpg"], "C:\\data\\"),
    ],
)
def test_a_prefix_that_no_folder_has(root, names, prefix):
    text = explain(root / "images/train", *names)
    assert (
        text == f"the files exist without {prefix}: remove it from file_name in the annotation file"
    )


def test_only_the_case_differs(root):
    text = explain(root / "images/train", "1.JPG", flag=None)
    assert f"{root}/images/train/1.jpg differs from 1.JPG only in case: rename the files" in text


def test_only_the_extension_differs(root):
    for name in ("1.png", "1"):
        text = explain(root / "images/train", name)
        assert f"1.jpg differs from {name} only in its extension: rename the files" in text


def test_a_folder_in_place_of_a_file(root):
    text = explain(root / "images", "train")
    assert text == f"{root}/images/train is a folder, but file_name must be an image file"


def test_one_folder_has_some_of_the_files_only(root):
    (root / "images/train/2.jpg").unlink()
    (root / "other data/2.jpg").unlink()
    assert "use --train_images" not in explain(root / "images", *NAMES)


def test_nothing_alike(root):
    text = explain(root / "images/train", "a.gif")
    assert (
        "files such as " in text and "give the folder of these images with --train_images" in text
    )
    assert "contains no files: give the folder" in explain(root, "a.gif")
    assert explain(root, "a.gif", flag=None).startswith("add the files, or remove them")


@pytest.mark.parametrize("name", ["\ud800.jpg", "\ud800/a.jpg", "x" * 5000, "a\0b", "..", "/", "~"])
def test_names_that_no_file_can_have(root, name):
    assert explain(root / "images", name)
    assert explain(root / "gone", name)

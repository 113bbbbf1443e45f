"""Layouts of YOLO data that are recognized, and ``data.yaml`` as different tools write it."""

import pytest

from datasets.formats.yolo_folders import find_yolo, label_files
from tests.datasets.format_cases import CLASSES, write_image, write_text, write_yolo
from util.errors import UserError


def found(root):
    """Images of each split, relative to the folder."""
    folder = root if root.is_dir() else root.parent
    return {
        split: [path.resolve().relative_to(folder).as_posix() for path in images]
        for split, images in find_yolo(root).splits.items()
    }


def refusal(root):
    with pytest.raises(UserError) as caught:
        find_yolo(root)
    return caught.value.one_line()


def label(path, text="1 0.5 0.5 0.25 0.5\n"):
    return write_text(path, text)


def yaml(root, text, name="data.yaml"):
    return write_text(root / name, text)


SPLITS = {"train": ["images/train/a.png", "images/train/b.png"], "val": ["images/val/c.png"]}


@pytest.mark.parametrize(
    "text",
    [
        "train: images/train\nval: images/val\nnames: [cat, dog, emu]\n",
        "train: ./images/train/\nvalid: images/val\nnames: {0: cat, 1: dog, 2: emu}\n",
        "train: ../images/train\nval: ../images/val\nnames: ['cat', \"dog\", emu]\n",
        "path: /content/animals\ntrain: images/train\nval: images/val\nnames: [cat, dog, emu]",
        "train: /content/animals/images/train\nval: C:\\data\\images\\val\nnames: [cat, dog, emu]",
        "train: [images/train]\r\nval:\r\n- images/val\r\nnames:\r\n- cat\r\n- dog\r\n- emu",
        "train: train.txt\nval: val.txt\nnames: {2: emu, 1: dog, 0: cat}\nnc: 3\n",
        "\ufefftrain: images/train\nval: images/val\ntest:\nnames: [cat, dog, emu]\n",
    ],
)
@pytest.mark.parametrize("given", [".", "data.yaml"])
def test_yaml_of_different_tools(tmp_path, text, given):
    root = write_yolo(tmp_path)
    yaml(root, text)
    write_text(root / "train.txt", "./images/train/a.png\r\n/gone/images/train/b.png\r\n\r\n")
    write_text(root / "val.txt", f"{root}/images/val/c.png")
    assert found(root / given) == SPLITS
    assert find_yolo(root / given).names == list(CLASSES)


def test_path_is_relative_to_the_yaml_file_or_the_current_folder(tmp_path, monkeypatch):
    write_yolo(tmp_path / "data")
    text = "path: {}\ntrain: images/train\nval: images/val\nnames: [cat]\n"
    beside = yaml(tmp_path, text.format("data"), "beside.yaml")
    assert found(beside)["val"] == ["data/images/val/c.png"]
    elsewhere = yaml(tmp_path / "configs", text.format("data"), "here.yaml")
    monkeypatch.chdir(tmp_path)
    assert [str(path) for path in find_yolo(elsewhere).splits["val"]] == ["data/images/val/c.png"]


def test_other_data_in_the_current_folder_is_not_read(tmp_path, monkeypatch):
    write_yolo(tmp_path)
    root = write_yolo(tmp_path / "mine", {"train": ["m"], "val": ["n"]})
    text = "path: {}\ntrain: images/train\nval: images/val\nnames: [cat]\n"
    monkeypatch.chdir(tmp_path)
    assert found(yaml(root, text.format(".")))["val"] == ["images/val/n.png"]
    (root / "other" / "val").mkdir(parents=True)
    assert found(yaml(root, text.format("other")))["val"] == ["images/val/n.png"]


def test_words_and_numbers_are_names(tmp_path):
    write_yolo(tmp_path)
    yaml(tmp_path, "train: images/train\nnames: [no, 007, null, 1.0]\n")
    assert find_yolo(tmp_path).names == ["no", "007", "null", "1.0"]


def test_missing_validation_images_are_remembered(tmp_path):
    write_yolo(tmp_path)
    yaml(tmp_path, "train: images/train\nval: images/gone\nnames: [cat, dog, emu]\n")
    folders = find_yolo(tmp_path)
    assert list(folders.splits) == ["train"]
    assert folders.missing == "val: images/gone"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: images/train\nnc: 2\n", "`names` must list the class names"),
        ("train: images/train\nnames: 3\n", "`names` must list the class names"),
        ("train: images/train\nnames: []\n", "`names` must list the class names"),
        ("train: images/train\nnames: {1: cat, 2: dog}\n", "keys of `names` must be 0, 1, 2"),
        ("train: images/train\nnames: [cat, cat]\n", "`names` has 'cat' twice"),
        ("train: gone\nval: lost\nnames: [cat]\n", "no existing images (train: gone; val: lost)"),
        ("names: [cat]\n", "lists no existing images; correct its keys train and val"),
        ("names: [cat\ntrain: x\n", "data.yaml, line 2: not YAML"),
        ("train: list.txt\nnames: [cat]\n", "list.txt, line 2: image gone.png does not exist"),
    ],
)
def test_invalid_yaml_is_named(tmp_path, text, says):
    write_yolo(tmp_path)
    write_text(tmp_path / "list.txt", "images/train/a.png\ngone.png\n")
    yaml(tmp_path, text)
    assert says in refusal(tmp_path)


def test_yaml_cannot_run_code(tmp_path):
    write_yolo(tmp_path)
    yaml(tmp_path, "train: images/train\nnames: !!python/object/apply:os.getcwd []\n")
    assert "`names` must list the class names" in refusal(tmp_path)


def test_several_yaml_files_are_named(tmp_path):
    write_yolo(tmp_path)
    other = yaml(tmp_path, "train: images/val\nnames: [cat, dog, emu]\n", "small.yaml")
    assert f"give one: {tmp_path}/data.yaml or {other}" in refusal(tmp_path)
    assert find_yolo(other).splits.keys() == {"train"}


def test_other_yaml_is_left_out(tmp_path):
    write_yolo(tmp_path)
    yaml(tmp_path, "lr0: 0.01\n", "hyp.yaml")
    assert found(tmp_path) == SPLITS


def test_images_in_subfolders(tmp_path):
    write_yolo(tmp_path)
    write_image(tmp_path / "images/train/more/d.JPG")
    assert found(tmp_path)["train"][-1] == "images/train/more/d.JPG"


@pytest.mark.parametrize(
    ("images", "labels", "classes", "split"),
    [
        ("images/train", "labels/train", "classes.txt", "train"),
        ("images/val", "labels/val", "labels/classes.txt", "val"),
        ("valid/images", "valid/labels", "classes.txt", "val"),
        ("train", "train", "obj.names", "train"),
        ("images", "labels", "labels/classes.txt", "train"),
        ("images", "images", "classes.txt", "train"),
        (".", ".", "classes.txt", "train"),
    ],
)
def test_folders_without_yaml(tmp_path, images, labels, classes, split):
    write_image(tmp_path / images / "a.png")
    write_image(tmp_path / images / "b.png")
    label(tmp_path / labels / "a.txt", "")
    label(tmp_path / labels / "b.txt")
    write_text(tmp_path / classes, "cat\r\ndog\r\n\r\n")
    folders = find_yolo(tmp_path)
    assert list(folders.splits) == [split]
    assert [path.name for path in folders.splits[split]] == ["a.png", "b.png"]
    assert folders.names == ["cat", "dog"]
    assert label_files(folders.splits[split])[tmp_path / images / "b.png"] == (
        tmp_path / labels / "b.txt"
    )


def test_class_names_are_needed(tmp_path):
    write_image(tmp_path / "images" / "a.png")
    label(tmp_path / "labels" / "a.txt")
    assert f"write them to {tmp_path}/classes.txt, one per line" in refusal(tmp_path)


def test_text_next_to_images_is_not_yolo(tmp_path):
    write_image(tmp_path / "a.png")
    write_text(tmp_path / "a.txt", "a photo of a cat\n")
    assert find_yolo(tmp_path) is None


def test_images_in_subfolders_alone(tmp_path):
    for name in ("a/1", "b/2"):
        write_image(tmp_path / "images" / f"{name}.png")
        write_text(tmp_path / "labels" / f"{name}.txt", "0\t0.5\t0.5\t0.5\t1e-1\n")
    write_text(tmp_path / "classes.txt", "cat")
    assert len(find_yolo(tmp_path).splits["train"]) == 2

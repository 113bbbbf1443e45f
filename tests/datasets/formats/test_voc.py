"""Pascal VOC data: images and annotation files that belong together, sizes, and class ids."""

import pytest

from datasets.formats.voc import VocData
from datasets.formats.voc_folders import find_voc
from tests.datasets.format_cases import (
    boxes_by_image,
    read,
    voc_object,
    voc_xml,
    write_image,
    write_text,
    write_voc,
)
from tests.datasets.photo_cases import upright_image, write_photo
from util.errors import UserError


def refusal(root, split="train"):
    with pytest.raises(UserError) as caught:
        read(root, split)
    return caught.value.one_line()


def notes(tables):
    return [str(note) for note in tables.notes]


def loose(root, *objects, name="a", image="a.jpg", **xml):
    """XML next to an image."""
    write_image(root / image)
    write_text(root / f"{name}.xml", voc_xml(*objects, **xml))


def test_a_split_by_lists(tmp_path):
    root = write_voc(tmp_path)
    train, val = read(root, "train"), read(root, "val")
    cat, dog = ("cat", [2, 4, 10, 16]), ("dog", [0, 0, 40, 30])
    assert boxes_by_image(train.data) == {"a.jpg": [cat, dog], "b.jpg": [cat, dog]}
    assert boxes_by_image(val.data) == {"c.jpg": [cat]}
    assert train.img_folder == root / "JPEGImages"
    assert train.source == root / "ImageSets" / "Main" / "train.txt"
    row = train.data["images"][0]
    assert (row["width"], row["height"]) == (40, 30)
    assert train.remarks == val.remarks == []


def test_images_in_no_list_are_counted(tmp_path):
    root = write_voc(tmp_path, {"train": ["a", "b"], "val": ["c"], "test": ["d", "e"]})
    assert read(root, "train").remarks == []
    are_unused = f"2 of 5 images in {root / 'JPEGImages'} are not listed in train.txt or val.txt"
    assert read(root, "val").remarks == [f"{are_unused}, and not used"]
    root = write_voc(tmp_path / "one", {"train": ["a", "b"], "more": ["d"]})
    is_unused = f"1 of 3 images in {root / 'JPEGImages'} is not listed in train.txt, and not used"
    assert VocData(find_voc(root)).read("train", {}).remarks == [is_unused]


def test_ids_do_not_depend_on_the_split(tmp_path):
    root = write_voc(tmp_path)
    write_text(root / "Annotations" / "c.xml", voc_xml(voc_object("emu"), voc_object("ant")))
    expected = [(1, "ant"), (2, "cat"), (3, "dog"), (4, "emu")]
    for split in ("train", "val"):
        rows = read(root, split).data["categories"]
        assert [(row["id"], row["name"]) for row in rows] == expected


def test_known_classes_keep_their_ids(tmp_path):
    data = VocData(find_voc(write_voc(tmp_path))).read("val", {"dog": 7, "emu": 2})
    rows = data.data["categories"]
    assert [(row["id"], row["name"]) for row in rows] == [(2, "emu"), (7, "dog"), (8, "cat")]
    assert [row["category_id"] for row in data.data["annotations"]] == [8]


def test_boxes_without_area_are_noted_with_their_file(tmp_path):
    loose(tmp_path, voc_object(), voc_object("dog", (4, 4, 4, 4)))
    loose(tmp_path, voc_object(), name="b", image="b.jpg")
    tables = [read(tmp_path, split) for split in ("train", "val")]
    assert [*notes(tables[0]), *notes(tables[1])] == [
        "1 box with zero area ignored: a.xml, object 2 (dog)"
    ]
    assert sum(len(one.data["annotations"]) for one in tables) == 2


def test_images_without_annotation_file_have_no_objects(tmp_path):
    root = write_voc(tmp_path)
    (root / "Annotations" / "b.xml").unlink()
    assert boxes_by_image(read(root).data)["b.jpg"] == []
    assert "2 images (1 without objects), 2 objects, 2 classes (cat, dog)" in read(root).summary(
        "train"
    )


def test_files_without_image_are_noted(tmp_path):
    loose(tmp_path, voc_object())
    loose(tmp_path, voc_object(), name="b", image="b.jpg")
    write_text(tmp_path / "gone.xml", voc_xml(voc_object(), filename="gone.jpg"))
    both = notes(read(tmp_path, "train")) + notes(read(tmp_path, "val"))
    assert set(both) == {"1 file without an image ignored: gone.xml"}


def test_listed_images_must_exist(tmp_path):
    root = write_voc(tmp_path)
    (root / "JPEGImages" / "b.jpg").unlink()
    message = refusal(root)
    assert f"{root}/ImageSets/Main/train.txt lists images that" in message
    assert "does not have: line 2 (b); add the images" in message


def test_no_image_at_all(tmp_path):
    write_text(tmp_path / "Annotations" / "a.xml", voc_xml(voc_object(), filename="a.jpg"))
    (tmp_path / "JPEGImages").mkdir()
    assert "has no images for the XML files in" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("image", "filename"),
    [
        ("a.JPG", "a.jpg"),
        ("a.png", "a.jpg"),
        ("photo.jpg", "photo.jpg"),
        ("photo.jpg", "photo"),
        ("a.jpg", "somebody_else.jpg"),
        ("A.jpg", ""),
    ],
)
def test_the_image_of_a_file(tmp_path, image, filename):
    loose(tmp_path, voc_object(), image=image, filename=filename)
    found = boxes_by_image(read(tmp_path, val_fraction=1, split="val").data)
    assert {name: len(objects) for name, objects in found.items()} == {image: 1}


def test_a_listed_image_with_another_name(tmp_path):
    root = write_voc(tmp_path)
    (root / "JPEGImages" / "a.jpg").rename(root / "JPEGImages" / "photo.jpg")
    write_text(root / "Annotations" / "a.xml", voc_xml(voc_object(), filename="photo.jpg"))
    assert [len(one) for one in boxes_by_image(read(root).data).values()] == [2, 1]


def test_of_images_with_one_name_the_file_name_decides(tmp_path):
    loose(tmp_path, voc_object(), filename="a.png")
    write_image(tmp_path / "a.png")
    found = boxes_by_image(read(tmp_path, "val", val_fraction=1).data)
    assert {name: len(objects) for name, objects in found.items()} == {"a.png": 1}


def test_spaces_and_accents(tmp_path):
    composed, decomposed = "caf\u00e9 1", "cafe\u0301 1"
    root = write_voc(tmp_path, {"train": [composed], "val": ["my image 2"]})
    (root / "JPEGImages" / f"{composed}.jpg").rename(root / "JPEGImages" / f"{decomposed}.jpg")
    assert list(boxes_by_image(read(root).data)) == [f"{decomposed}.jpg"]
    assert len(read(root, "val").data["annotations"]) == 1


@pytest.mark.parametrize("line", ["{}", "{} 1", "{}  -1", "{}.jpg", "JPEGImages/{}.jpg", "{}\r\n"])
def test_lines_of_lists(tmp_path, line):
    root = write_voc(tmp_path)
    write_text(root / "ImageSets/Main/train.txt", line.format("a") + "\n\n" + line.format("b"))
    assert list(boxes_by_image(read(root).data)) == ["a.jpg", "b.jpg"]


def test_an_empty_list(tmp_path):
    root = write_voc(tmp_path)
    write_text(root / "ImageSets/Main/train.txt", "\n")
    assert "train.txt lists no images" in refusal(root)


def test_invalid_files_are_named_together(tmp_path):
    root = write_voc(tmp_path, {"train": list("abcde"), "val": ["f"]})
    for stem in "abcd":
        write_text(root / "Annotations" / f"{stem}.xml", "<annotation>\n<")
    message = refusal(root)
    assert all(f"{stem}.xml, line 2" in message for stem in "abc")
    assert message.endswith("and 1 more; correct or remove the files")


@pytest.mark.parametrize("size", [(0, 0), (30, 40), (400, 300)])
def test_wrong_sizes_are_corrected_by_the_image(tmp_path, size):
    loose(tmp_path, voc_object(), size_wh=size)
    tables = read(tmp_path, "val", val_fraction=1)
    assert (tables.data["images"][0]["width"], tables.data["images"][0]["height"]) == (40, 30)
    assert notes(tables)[0].startswith(
        "1 file with a wrong image size; the size of the image is used: a"
    )


def test_boxes_of_a_scaled_image_are_not_corrected(tmp_path):
    loose(tmp_path, voc_object(box=(100, 100, 300, 200)), size_wh=(400, 300))
    tables = read(tmp_path, "val", val_fraction=1)
    assert tables.data["images"][0]["width"] == 400  # so that reading the image is an error
    assert tables.notes == []
    (error,) = tables.errors
    assert str(error).endswith(
        "resized after annotation: a.xml, 400 x 300, but the image is 40 x 30"
    )


@pytest.mark.parametrize(
    ("size", "kept"), [((20, 15), True), ((13, 10), True), ((39, 29), False), ((20, 20), False)]
)
def test_an_enlarged_image_does_not_correct_its_size(tmp_path, size, kept):
    loose(tmp_path, voc_object(box=(1, 2, 9, 8)), size_wh=size)
    row = read(tmp_path, "val", val_fraction=1).data["images"][0]
    assert ((row["width"], row["height"]) == size) == kept  # kept: reading the image is an error
    write_text(tmp_path / "a.xml", voc_xml(size_wh=size))  # without objects nothing is wrong
    row = read(tmp_path, "val", val_fraction=1).data["images"][0]
    assert (row["width"], row["height"]) == (40, 30)


@pytest.mark.parametrize(
    ("other", "kept"),
    [((1, 2, 35, 28), False), ((1, 2, 21, 15), True)],  # clearly outside, and by a pixel
)
def test_a_size_that_boxes_of_another_file_exceed_is_a_placeholder(tmp_path, other, kept):
    """All files have the same size, and some boxes happen to fit it."""
    root = write_voc(tmp_path, {"train": ["a"], "val": ["b"]})
    small = voc_object(box=(1, 2, 9, 8))
    write_text(root / "Annotations" / "a.xml", voc_xml(small, size_wh=(20, 15)))
    write_text(root / "Annotations" / "b.xml", voc_xml(voc_object(box=other), size_wh=(20, 15)))
    tables = read(root, "train")
    assert tables.data["images"][0]["width"] == (20 if kept else 40)
    assert [len(tables.errors), len(tables.notes)] == ([1, 0] if kept else [0, 1])


def test_the_size_of_other_images_is_no_placeholder(tmp_path):
    """A wrong box in an image with this size does not count."""
    root = write_voc(tmp_path, {"train": ["a"], "val": ["b"]})
    write_image(root / "JPEGImages" / "a.jpg", size_wh=(80, 60))
    write_text(root / "Annotations" / "b.xml", voc_xml(voc_object(box=(1, 2, 60, 28))))
    assert read(root, "train").data["images"][0]["width"] == 40


def test_a_box_outside_both_sizes_is_not_evidence_of_a_placeholder(tmp_path):
    """One wrong box in images that were scaled down after annotation."""
    root = write_voc(tmp_path, {"train": ["a"], "val": ["b"]})
    boxes = {"a": (100, 100, 300, 200), "b": (100, 100, 480, 200)}
    for name, box in boxes.items():
        xml = voc_xml(voc_object(box=box), size_wh=(400, 300))
        write_text(root / "Annotations" / f"{name}.xml", xml)
    assert len(read(root, "train").errors) == 1


def test_errors_belong_to_their_split(tmp_path):
    for name in "abcd":
        loose(tmp_path, voc_object(), name=name, image=f"{name}.jpg")
    write_image(tmp_path / "a.jpg", size_wh=(80, 60))
    found = [read(tmp_path, split).errors for split in ("train", "val")]
    assert sorted(map(len, found)) == [0, 1]


@pytest.mark.parametrize("size", [(40, 30), (30, 40)])
def test_rotated_photos_have_the_size_of_the_file(tmp_path, size):
    """The file may have the stored or the upright size: the image is then read accordingly."""
    loose(tmp_path, voc_object(), size_wh=size)
    write_image(tmp_path / "a.jpg", exif=orientation(6))
    tables = read(tmp_path, "val", val_fraction=1)
    assert (tables.data["images"][0]["width"], tables.data["images"][0]["height"]) == size


def orientation(number):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def test_an_unreadable_image_has_the_size_of_the_file(tmp_path):
    loose(tmp_path, voc_object())
    (tmp_path / "a.jpg").write_bytes(b"broken")
    assert read(tmp_path, "val", val_fraction=1).data["images"][0]["width"] == 40


def test_difficult_objects(tmp_path):
    root = write_voc(tmp_path)
    objects = [voc_object(), voc_object("dog", difficult=1)]
    for stem in "abc":
        write_text(root / "Annotations" / f"{stem}.xml", voc_xml(*objects))
    train, val = read(root, "train"), read(root, "val")
    assert [one for objects in boxes_by_image(train.data).values() for one, _ in objects] == [
        "cat"
    ] * 2
    flags = [(row["iscrowd"], row["difficult"]) for row in val.data["annotations"]]
    assert flags == [(0, 0), (1, 1)]
    assert train.remarks == [
        "2 objects marked difficult not used in training; --keep_difficult uses them"
    ]
    assert val.remarks == [
        "1 object marked difficult ignored by COCO AP; --keep_difficult uses them"
    ]
    for split, count in (("train", 4), ("val", 2)):
        kept = read(root, split, keep_difficult=True)
        flags = [(row["iscrowd"], row["difficult"]) for row in kept.data["annotations"]]
        assert flags == [(0, 0)] * count
        assert kept.remarks == []


def test_annotation_files_that_differ_in_case_are_refused(tmp_path):
    loose(tmp_path, voc_object("cat"), name="a", image="a.jpg")
    loose(tmp_path, voc_object("dog"), name="A", image="A.jpg")
    assert f"{tmp_path}/a.xml and A.xml differ only in case; correct" in refusal(tmp_path, "val")


def test_images_with_the_name_of_another_image_are_noted(tmp_path):
    loose(tmp_path, voc_object("cat"), filename="a.jpg")
    write_image(tmp_path / "a.png")
    (note,) = notes(read(tmp_path, "val", val_fraction=1))
    assert note == "1 image with the name of another image ignored: a.png"


def test_annotation_files_in_subfolders_are_noted(tmp_path):
    loose(tmp_path, voc_object("cat"))
    loose(tmp_path / "more", voc_object("cat"), name="b", image="b.jpg")
    write_text(tmp_path / "more" / "pom.xml", "<project/>")
    (note,) = notes(read(tmp_path, "val", val_fraction=1))
    assert note == f"1 file in subfolders ignored: {tmp_path}/more/b.xml"


@pytest.mark.parametrize("orientation", [3, 6])
def test_photos_whose_size_does_not_show_their_orientation_are_noted(tmp_path, orientation):
    write_photo(tmp_path / "a.jpg", orientation, upright_image((32, 32)))
    write_text(tmp_path / "a.xml", voc_xml(voc_object(), size_wh=(32, 32)))
    (note,) = notes(read(tmp_path, "val", val_fraction=1))
    assert note.startswith("1 image has an EXIF orientation, and sizes do not show if boxes follow")
    assert note.endswith("; read as stored: a.jpg")

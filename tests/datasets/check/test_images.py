"""Every image file is decoded; errors are reported with its id and name."""

import os
import threading

import pytest
from PIL import ExifTags, Image

from datasets.check.findings import Findings
from datasets.check.images import ListedImage, _map_in_threads, survey_images
from tests.datasets.check_cases import write_image


def survey(folder, sizes_by_name, num_workers=0):
    """Survey files 0, 1, … and give what is found: names by kind."""
    listed = [
        ListedImage(i, folder / name, name, size)
        for i, (name, size) in enumerate(sizes_by_name.items())
    ]
    findings = Findings("train")
    result = survey_images(listed, findings, num_workers, "images")
    return result, {one.kind: [place.file_name for place in one.examples] for one in findings.all()}


def write_rotated(path, orientation, size_wh):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    write_image(path, orientation, size_wh, exif=exif)


def test_modes_and_sizes_are_counted(tmp_path):
    for mode in ("L", "RGBA", "CMYK", "P", "I;16"):
        Image.new(mode, (4, 3), 1 if mode != "CMYK" else (1, 2, 3, 4)).save(
            tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        )
    names = dict.fromkeys(sorted(path.name for path in tmp_path.iterdir()), (4, 3))
    result, found = survey(tmp_path, names)
    assert result.modes == {"L": 1, "RGBA": 1, "CMYK": 1, "P": 1, "I;16": 1}
    assert result.num_read == 5
    assert set(result.sizes_wh.values()) == {(4, 3)}
    assert set(found) <= {"duplicate_image"}


def test_files_that_cannot_be_read(tmp_path):
    write_image(tmp_path / "good.jpg", 0)
    whole = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "lost.jpg").symlink_to("nowhere.jpg")
    names = ["empty.jpg", "folder.jpg", "half.jpg", "lost.jpg", "pipe.jpg", "text.jpg"]
    result, found = survey(tmp_path, dict.fromkeys([*names, "good.jpg"]))
    assert found == {"unreadable_image": names}
    assert result.num_read == 1


def test_sizes_that_disagree(tmp_path):
    write_image(tmp_path / "a.png", 1, (8, 6))
    write_image(tmp_path / "b.png", 2, (8, 6))
    _, found = survey(tmp_path, {"a.png": (6, 8), "b.png": (8, 6)})
    assert found == {"size_mismatch": ["a.png"]}


@pytest.mark.parametrize(
    ("orientation", "size_told", "kind"),
    [
        (1, (8, 6), None),
        (6, (8, 6), None),  # the annotation follows the stored pixels, as training does
        (6, (6, 8), "exif_rotated"),
        (8, (6, 8), "exif_rotated"),
        (3, (6, 8), "size_mismatch"),
        (3, (8, 6), "exif_ambiguous"),
        (6, None, "exif_ambiguous"),
    ],
)
def test_exif_orientation_against_the_annotation(tmp_path, orientation, size_told, kind):
    write_rotated(tmp_path / "a.jpg", orientation, (8, 6))
    result, found = survey(tmp_path, {"a.jpg": size_told})
    assert found == ({} if kind is None else {kind: ["a.jpg"]})
    assert result.num_with_orientation == (orientation != 1)


@pytest.mark.parametrize(("size_told", "size_read"), [((6, 8), (6, 8)), ((8, 6), (8, 6))])
def test_sizes_are_those_that_training_reads(tmp_path, size_told, size_read):
    write_rotated(tmp_path / "a.jpg", 6, (8, 6))
    assert survey(tmp_path, {"a.jpg": size_told})[0].sizes_wh == {0: size_read}


def test_a_square_image_does_not_show_whether_boxes_are_rotated(tmp_path):
    write_rotated(tmp_path / "a.jpg", 6, (8, 8))
    assert survey(tmp_path, {"a.jpg": (8, 8)})[1] == {"exif_ambiguous": ["a.jpg"]}


def test_decompression_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    write_image(tmp_path / "bomb.png", 1, (20, 11))
    write_image(tmp_path / "huge.png", 2, (20, 10))
    write_image(tmp_path / "good.png", 3, (10, 10))
    _, found = survey(tmp_path, {"bomb.png": None, "huge.png": None, "good.png": None})
    assert found == {"decompression_bomb": ["bomb.png"], "huge_image": ["huge.png"]}


def test_equal_pixels_are_duplicates_whatever_the_file(tmp_path):
    write_image(tmp_path / "a.png", 1)
    write_image(tmp_path / "b.bmp", 1)
    write_image(tmp_path / "c.png", 2)
    _, found = survey(tmp_path, {"a.png": None, "b.bmp": None, "c.png": None})
    assert found == {"duplicate_image": ["b.bmp"]}


def test_equal_bytes_of_another_shape_are_none(tmp_path):
    Image.new("RGB", (4, 6)).save(tmp_path / "a.png")
    Image.new("RGB", (6, 4)).save(tmp_path / "b.png")
    assert survey(tmp_path, {"a.png": None, "b.png": None})[1] == {}


def test_threads_give_the_same_as_none(tmp_path):
    for seed in range(12):
        write_image(tmp_path / f"{seed:02}.png", seed % 9)
    (tmp_path / "05.png").write_text("broken")
    names = dict.fromkeys((f"{seed:02}.png" for seed in range(12)), (64, 48))
    assert survey(tmp_path, names, num_workers=3) == survey(tmp_path, names, num_workers=0)


def test_threads_read_only_a_little_ahead_and_end():
    taken = []
    before = threading.active_count()
    results = _map_in_threads(lambda x: x * x, (taken.append(i) or i for i in range(1000)), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(taken) < 40
    results.close()
    assert threading.active_count() == before

"""Names of output files: kept, with sub-folders, never two alike."""

import pytest

from prediction.names import picture_name, png_name, printable, unique_names


@pytest.mark.parametrize(
    ("name", "picture"),
    [("a.jpg", "a.jpg"), ("d/a.PNG", "d/a.PNG"), ("a.pgm", "a.pgm.png"), ("noext", "noext.png")],
)
def test_pictures_keep_the_name(name, picture):
    assert picture_name(name) == picture


@pytest.mark.parametrize(
    ("paths", "names", "expected"),
    [
        (["/d/x.jpg", "/d/x.png"], ["x.jpg", "x.png"], ["x.jpg", "x.png"]),
        (["/d/a/x.jpg", "/d/b/x.jpg"], ["x.jpg", "x.jpg"], ["a/x.jpg", "b/x.jpg"]),
        (["/d/a/1/x.jpg", "/d/b/1/x.jpg"], ["x.jpg"] * 2, ["a/1/x.jpg", "b/1/x.jpg"]),
        (["/d/x.jpg", "/d/e/x.jpg"], ["x.jpg", "x.jpg"], ["x.jpg", "e/x.jpg"]),
        (["/d/x.gif", "/d/x.gif.png"], ["x.gif", "x.gif.png"], ["x.gif", "x.gif-2.png"]),
        (["/d/X.jpg", "/d/x.jpg"], ["X.jpg", "x.jpg"], ["X.jpg", "x-2.jpg"]),
        (["/d/x.jpg", "/d/x.jpg.png"], ["x.jpg", "x.jpg.png"], ["x.jpg", "x.jpg-2.png"]),
        (["0", "1"], ["camera0", "camera1"], ["camera0", "camera1"]),
    ],
)
def test_equal_names_get_different_files(paths, names, expected):
    assert unique_names(paths, names) == expected


def test_a_number_that_is_taken_is_left_out():
    paths = ["/d/X.jpg", "/d/x.jpg", "/d/x-2.jpg"]
    assert unique_names(paths, ["X.jpg", "x.jpg", "x-2.jpg"]) == ["X.jpg", "x-3.jpg", "x-2.jpg"]


def test_bytes_that_are_not_text_are_escaped():
    assert printable("a\udcff.jpg") == "a\\udcff.jpg"


def test_a_png_has_one_suffix():
    assert [png_name(name) for name in ("a.PNG", "a.gif", "a")] == ["a.PNG", "a.gif.png", "a.png"]

"""Annotation files of Pascal VOC: what is read, and what is wrong with a file."""

import pytest

from datasets.formats.voc_xml import read_voc_file
from tests.datasets.format_cases import voc_object, voc_xml, write_text
from util.errors import UserError


def read(tmp_path, text, encoding="utf-8"):
    return read_voc_file(write_text(tmp_path / "one.xml", text, encoding))


def refusal(tmp_path, text):
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "one.xml") in str(caught.value)
    return caught.value.one_line()


def test_pixels_count_from_one_and_include_the_last(tmp_path):
    file = read(tmp_path, voc_xml(voc_object(box=(1, 1, 10, 20)), filename="one.jpg"))
    (one,) = file.objects
    assert one.box_xywh == (0, 0, 10, 20)
    assert (file.image_name, file.size_wh) == ("one.jpg", (40, 30))


def test_coordinates_may_be_floats(tmp_path):
    (one,) = read(tmp_path, voc_xml(voc_object(box=("1.5", " 2 ", "1e1", 20)))).objects
    assert one.box_xywh == (0.5, 1, 9.5, 19)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((5, 5, 5, 5), ""),
        ((5, 5, 5, 9), ""),
        ((9, 5, 5, 9), ", negative size"),
        ((5, 9, 9, 5), ", negative size"),
    ],
)
def test_boxes_without_area_are_counted_by_their_number(tmp_path, box, reason):
    file = read(tmp_path, voc_xml(voc_object(), voc_object("dog", box)))
    assert [one.name for one in file.objects] == ["cat"]
    assert file.empty == [f"object 2 (dog{reason})"]


@pytest.mark.parametrize(
    ("text", "difficult"),
    [("1", True), ("0", False), ("", False), ("Unspecified", False), ("true", True)],
)
def test_difficult(tmp_path, text, difficult):
    (one,) = read(tmp_path, voc_xml(voc_object(difficult=text))).objects
    assert one.difficult is difficult


def test_parts_of_a_person_are_not_objects(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
    file = read(tmp_path, voc_xml(voc_object("person").replace("</object>", part)))
    assert [one.name for one in file.objects] == ["person"]


@pytest.mark.parametrize("name", ["one.jpg", r"C:\photos\one.jpg", "/home/pi/one.jpg"])
def test_folders_in_the_file_name_are_left_out(tmp_path, name):
    assert read(tmp_path, voc_xml(filename=name)).image_name == "one.jpg"


@pytest.mark.parametrize("size", [(0, 0), ("", 30), ("wide", 30), (-1, 30), ("inf", 1)])
def test_invalid_sizes_are_unknown(tmp_path, size):
    assert read(tmp_path, voc_xml(size_wh=size)).size_wh is None


def test_without_size_and_file_name(tmp_path):
    assert read(tmp_path, "<annotation/>")[1:] == ("", None, [], [])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_and_line_ends(tmp_path, encoding):
    text = voc_xml(voc_object(" Käfer ")).replace("><", ">\r\n<")
    assert read(tmp_path, text, encoding).objects[0].name == "Käfer"


def test_malformed_xml_is_named_with_its_line(tmp_path):
    text = voc_xml(voc_object()).replace("<object>", "\n<object>").replace("</bndbox>", "\n")
    assert "one.xml, line 3, column 2: not XML: mismatched tag" in refusal(tmp_path, text)
    assert "line 1, column 0: not XML" in refusal(tmp_path, "")


def test_other_xml_is_named(tmp_path):
    assert "the root element is <annotations>, expected" in refusal(tmp_path, "<annotations/>")


def test_an_unknown_encoding_is_named(tmp_path):
    text = '<?xml version="1.0" encoding="nonsense"?><annotation/>'
    assert "nonsense" in refusal(tmp_path, text)


def test_entities_that_grow_without_end_are_refused(tmp_path):
    lines = ['<!ENTITY e0 "0123456789012345678901234567890123456789">']
    lines += [f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 9)]
    entities = "".join(lines)
    text = f"<!DOCTYPE a [{entities}]><annotation><filename>&e8;</filename></annotation>"
    assert "not XML" in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("spoilt", "says"),
    [
        (voc_object(name=" "), "object 2 has no name"),
        ("<object><name>dog</name></object>", "object 2 (dog) has no bndbox"),
        ("<object><name>dog</name><robndbox/></object>", "(a rotated box is not supported)"),
        (voc_object(box=(1, 2, "x", 4)), "object 2 (cat) has an invalid xmax: 'x'"),
        (voc_object(box=(1, "nan", 3, 4)), "has an invalid ymin: 'nan'"),
        (voc_object(box=(1, 2, 3, "1e300")), "has an invalid ymax: '1e300'"),
        (voc_object(box=("", 2, 3, 4)), "has an invalid xmin: ''"),
    ],
)
def test_invalid_objects_are_named_by_their_number(tmp_path, spoilt, says):
    assert says in refusal(tmp_path, voc_xml(voc_object(), spoilt))

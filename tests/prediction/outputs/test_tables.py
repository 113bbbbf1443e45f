"""CSV tables of detections and of counts."""

import csv

from prediction.outputs.tables import CountTable, DetectionTable
from tests.prediction.outputs.output_cases import IMAGE, boxes_of, found, item


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_a_row_per_detection(tmp_path):
    table = DetectionTable(tmp_path)
    table.add(item("a,b.jpg"), IMAGE, boxes_of((1, 2, 3.456, 4), name='"dot"'))
    table.add(item(frame=7, seconds=0.28), IMAGE, boxes_of((1, 2, 3, 4), (5, 6, 7, 8)))
    table.add(item(), IMAGE, boxes_of())
    table.close()
    head, *rows = rows_of(tmp_path / "detections.csv")
    assert len(head) == len(rows[0]) == 10
    assert rows[0] == ["photos/a,b.jpg", "", "", "1", '"dot"', "0.9", "1.0", "2.0", "3.46", "4.0"]
    assert [row[1:3] for row in rows[1:]] == [["7", "0.28"]] * 2


def test_counts_by_class(tmp_path):
    table = CountTable(tmp_path, None)
    table.add(item("a.jpg"), IMAGE, found())
    table.add(item("b.jpg"), IMAGE, boxes_of((1, 2, 3, 4), (1, 2, 3, 4)))
    table.add(item("c.mp4/1.jpg", frame=1, seconds=0), IMAGE, boxes_of())
    table.close()
    assert rows_of(tmp_path / "counts.csv") == [
        ["file", "frame", "dot", "other", "red patch", "all"],
        ["photos/a.jpg", "", "0", "1", "1", "2"],
        ["photos/b.jpg", "", "2", "0", "0", "2"],
        ["photos/c.mp4/1.jpg", "1", "0", "0", "0", "0"],
    ]


def test_chosen_classes_are_columns_even_without_objects(tmp_path):
    table = CountTable(tmp_path, ["other", "dot"])
    table.add(item(), IMAGE, boxes_of((1, 2, 3, 4)))
    table.close()
    assert rows_of(tmp_path / "counts.csv")[0] == ["file", "frame", "other", "dot", "all"]

"""The whole report, from files of a run to the page."""

import json
import re
import shutil
import time
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from PIL import Image

from report import write
from report.__main__ import main
from report.at_end import write_report_at_end
from report.ground_truth import GroundTruth
from report.results import read_results
from report.write import write_report
from tests.report.run_cases import log_of, some_detections, write_data, write_run

EVIL = [
    '--><script>document.title="pwned"</script>',
    '"><img src=x onerror=alert(1)>',
    "$x_1$ & co",
]
FIGURES = (
    *("loss", "loss_parts", "ap_bbox", "ap_by_size_bbox", "lr", "class_error"),
    *("precision_recall", "precision_recall_by_class", "ap_size_bars", "ap_by_class"),
    *("threshold", "calibration", "errors", "confusion"),
    *("objects_per_image", "box_sizes", "objects_by_class"),
)


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A run with names that contain HTML, and its report."""
    root = tmp_path_factory.mktemp("run")
    coco = write_data(root / "data", EVIL, num_images=12)
    write_run(root / "out", root / "data", coco, some_detections(coco))
    assert main([str(root / "out")]) == 0
    return root / "out"


class Page(HTMLParser):
    """Counts the elements of a page, and collects their text and addresses."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.addresses = {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        names = ("src", "href", "xlink:href", "data", "action")
        self.addresses += [value for name, value in attrs if name in names]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def page(reported):
    return Page((reported / "report.html").read_text(encoding="utf-8"))


def test_every_figure_is_there_as_png_and_svg_and_in_the_page(reported, page):
    names = {path.name for path in (reported / "figures").iterdir()}
    assert names == {f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "svg")}
    for name in FIGURES:
        with Image.open(reported / "figures" / f"{name}.png") as image:
            assert min(image.size) > 250
        root = ElementTree.parse(reported / "figures" / f"{name}.svg").getroot()
        assert root.tag.endswith("svg")
    assert page.tags["svg"] == len(FIGURES)


def test_the_page_loads_nothing_and_runs_nothing(page):
    assert "script" not in page.tags and "link" not in page.tags and "iframe" not in page.tags
    for address in page.addresses:
        assert address.startswith(("data:image/", "#")), address


def test_names_with_html_are_shown_as_they_are(reported, page):
    text = "".join(page.texts)
    for name in EVIL:
        assert name in text
    source = (reported / "report.html").read_text(encoding="utf-8")
    assert "<script" not in source and "<img src=x" not in source
    svg = (reported / "figures" / "ap_by_class.svg").read_text()
    assert "<script" not in svg and ">$x_1$ &amp; co</text>" in svg


def test_references_inside_svg_lead_somewhere_and_to_one_place(reported):
    source = (reported / "report.html").read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]+)"', source)
    assert len(ids) == len(set(ids))
    used = re.findall(r'url\(#([^)]+)\)|xlink:href="#([^"]+)"', source)
    assert used and {a or b for a, b in used} <= set(ids)


def test_all_sections_and_numbers_are_there(page):
    text = "".join(page.texts)
    for part in ("Training", "Evaluation", "worst images", "Data", "Next commands", "Flags"):
        assert part in text
    assert "Missed objects" in text and "--auto_resume" in text and "coco_path" in text
    assert page.tags["img"] >= 6


@pytest.fixture
def no_figures(monkeypatch):
    """Figures take most of the time, and these tests do not look at them."""
    monkeypatch.setattr(write, "save_figure", lambda figure, folder: "<svg></svg>")


def test_a_log_alone_is_reported_with_what_is_missing(tmp_path, capsys):
    lines = [json.dumps(entry) + "\n" for entry in log_of(2)]
    (tmp_path / "log.txt").write_text("".join(lines))
    assert main([str(tmp_path)]) == 0
    output = capsys.readouterr().out
    for part in ("AP by class", "Confusion matrix", "Flags", "Ground truth", "--data"):
        assert part in output
    text = "".join(Page((tmp_path / "report.html").read_text()).texts)
    assert "Not in this report" in text and "worst images" not in text


def test_what_is_missing_comes_with_its_command(reported, tmp_path, capsys, no_figures):
    folder = tmp_path / "out"
    shutil.copytree(reported, folder)
    shutil.rmtree(folder / "eval")
    assert main([str(folder)]) == 0
    assert f"main.py --eval --resume {folder}/checkpoint.pth --output_dir {folder}" in (
        capsys.readouterr().out
    )


def test_data_that_has_moved_is_named_on_the_command_line(reported, tmp_path, capsys, no_figures):
    folder, moved = tmp_path / "out", tmp_path / "moved"
    shutil.copytree(reported, folder)
    shutil.move(reported.parent / "data", moved)
    try:
        assert main([str(folder)]) == 0
        assert "Missing from the report: Ground truth and images" in capsys.readouterr().out
        assert main([str(folder), "--coco_path", str(moved)]) == 0
        assert "Missing from the report" not in capsys.readouterr().out
    finally:
        shutil.move(moved, reported.parent / "data")


@pytest.mark.parametrize("case", ["no folder", "empty folder"])
def test_without_a_run_one_line_says_so(case, tmp_path, capsys):
    folder = tmp_path if case == "empty folder" else tmp_path / "none"
    assert main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert str(folder) in error and "--output_dir" in error and error.count("\n") == 1


@pytest.mark.parametrize("text", ["{", "[1]", '[{"image_id": 1}]', '{"a": 1}'])
def test_broken_detections_are_named(reported, tmp_path, text, capsys, no_figures):
    folder = tmp_path / "out"
    shutil.copytree(reported, folder)
    (folder / "eval" / "detections.json").write_text(text)
    assert main([str(folder)]) == 0
    assert "detections.json cannot be used" in capsys.readouterr().out


def test_a_run_without_a_correct_detection(tmp_path):
    coco = write_data(tmp_path / "data", ["a", "b"], num_images=3)
    write_run(tmp_path / "out", tmp_path / "data", coco, [])
    assert main([str(tmp_path / "out")]) == 0
    assert "threshold.png" not in [p.name for p in (tmp_path / "out" / "figures").iterdir()]


class TestAtTheEndOfARun:
    def test_the_report_is_written(self, reported, tmp_path, capsys, no_figures):
        shutil.copytree(reported, tmp_path / "out", ignore=shutil.ignore_patterns("report.html"))
        write_report_at_end(tmp_path / "out", object(), None, None)
        assert "Warning: report not written" in capsys.readouterr().out  # there is no ground truth
        coco = write_data(tmp_path / "data", EVIL, num_images=12)
        write_report_at_end(tmp_path / "out", object(), coco, None)
        assert capsys.readouterr().out == f"Report: {tmp_path / 'out' / 'report.html'}\n"

    def test_a_failure_is_one_line(self, tmp_path, capsys):
        write_report_at_end(tmp_path / "none", None, None, None)
        output = capsys.readouterr().out
        assert output.startswith("Warning: report not written (") and output.count("\n") == 1
        assert f"python -m report {tmp_path / 'none'}" in output

    def test_without_a_folder_nothing_happens(self, capsys):
        write_report_at_end(None, None, None, None)
        assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_5000_images_and_80_classes_fit_in_10_megabytes(tmp_path):
    coco = write_data(tmp_path / "data", [f"class {i}" for i in range(80)], 5000, side=480)
    write_run(tmp_path / "out", tmp_path / "data", coco, some_detections(coco, 3), 300)
    started = time.process_time()
    truth = GroundTruth(coco, tmp_path / "data" / "val2017", coco)
    path = write_report(read_results(tmp_path / "out"), truth)
    assert time.process_time() - started < 60
    assert path.stat().st_size < 10e6

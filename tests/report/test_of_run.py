"""Reports of main.py on data whose category ids are not row numbers of the head."""

import re
import shutil

import pytest

import main as training_main
from report import write
from report.__main__ import main
from report.at_end import write_report_at_end
from tests.datasets.format_cases import voc_object, voc_xml, write_image, write_text
from tests.narrow_resnet import SHALLOW
from tests.test_main import FLAGS

BOXES = {"bird": (1, 1, 20, 20), "cat": (20, 2, 38, 28), "dog": (4, 8, 30, 29)}


def write_voc_data(root, *classes):
    """Four training and three validation images, each with an object of each class."""
    for split, stems in {"train": "abcd", "val": "efg"}.items():
        for stem in stems:
            write_image(root / "JPEGImages" / f"{stem}.jpg")
            objects = [voc_object(name, BOXES[name]) for name in classes]
            xml = voc_xml(*objects, filename=f"{stem}.jpg")
            write_text(root / "Annotations" / f"{stem}.xml", xml)
        write_text(root / "ImageSets" / "Main" / f"{split}.txt", "\n".join(stems) + "\n")
    return root


def run(*argv):
    argv = [*FLAGS, "--backbone", SHALLOW, "--epochs", "1", *map(str, argv)]
    assert training_main.run(argv) == 0


def evaluate(trained, data, folder):
    run("--eval", "--resume", trained / "best.pth", "--data", data, "--output_dir", folder)


def page_of(folder):
    """The page without date and time."""
    return re.sub(r"written [\d: -]+", "", (folder / "report.html").read_text(encoding="utf-8"))


def objects_in(page):
    """Number of objects by class, in the table of the evaluation."""
    rows = re.findall(r"<td class=name>(\w+)</td><td>(\d+)</td><td>0\.\d{3}</td>", page)
    return {name: int(count) for name, count in rows}


@pytest.fixture(scope="module")
def all_classes(tmp_path_factory):
    return write_voc_data(tmp_path_factory.mktemp("data") / "all", "bird", "cat", "dog")


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory):
    """Data with the same image names; its classes would have other ids on their own."""
    return write_voc_data(tmp_path_factory.mktemp("data") / "two", "cat", "dog")


@pytest.fixture(scope="module")
def trained_once(all_classes, tmp_path_factory):
    """A run with the report of its end."""
    folder = tmp_path_factory.mktemp("run") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("report.at_end.write_report_at_end", write_report_at_end)
        patch.setattr(write, "save_figure", lambda figure, folder: "<svg></svg>")
        run("--data", all_classes, "--output_dir", folder)
    return folder


@pytest.fixture
def trained(trained_once, tmp_path, monkeypatch):
    """A copy of the run, with reports without figures."""
    monkeypatch.setattr(write, "save_figure", lambda figure, folder: "<svg></svg>")
    # The page contains the path: the run itself is moved, not its name.
    kept = tmp_path / "kept"
    shutil.copytree(trained_once, kept)
    yield trained_once
    shutil.rmtree(trained_once)
    shutil.move(kept, trained_once)


def test_the_command_writes_the_report_of_the_end_again(trained, capsys):
    at_end = page_of(trained)
    assert objects_in(at_end) == {"bird": 3, "cat": 3, "dog": 3}
    assert main([str(trained)]) == 0
    output = capsys.readouterr().out
    assert "Missing from the report" not in output and "creating index" not in output
    assert page_of(trained) == at_end


def test_an_evaluation_alone_knows_its_data_and_the_ids_of_the_weights(
    trained, two_classes, tmp_path, capsys
):
    evaluate(trained, two_classes, tmp_path / "eval")
    for flags in ([], ["--data", str(two_classes)]):
        capsys.readouterr()
        assert main([str(tmp_path / "eval"), *flags]) == 0
        output = capsys.readouterr().out
        assert "Ground truth" not in output and "class names" not in output
        assert f"Flags and versions: no {tmp_path}/eval/checkpoint.pth\n" in output
        page = page_of(tmp_path / "eval")
        assert objects_in(page) == {"cat": 3, "dog": 3}
        assert "Errors and worst images" in page
        assert f"Newest evaluation on --data {two_classes}, of" in page


class TestTwoEvaluationsInAFolder:
    def test_other_data_is_left_out(self, trained, all_classes, two_classes, capsys):
        before = objects_in(page_of(trained))
        evaluate(trained, two_classes, trained)
        capsys.readouterr()
        assert main([str(trained)]) == 0
        lines = re.findall("Missing from the report: (.*)", capsys.readouterr().out)
        assert len(lines) == 1
        assert lines[0].startswith("eval.pth and eval/detections.json: evaluated on other data")
        assert f"add --data {two_classes} to python -m report" in lines[0]
        command = f"--eval --resume {trained}/best.pth --data {all_classes} --output_dir {trained}"
        assert lines[0].endswith(
            f"to evaluate the data of this report, run python main.py {command}"
        )
        page = page_of(trained)
        assert "Errors and worst images" not in page and "by class" in page

        assert main([str(trained), "--data", str(two_classes)]) == 0  # first way out
        assert "Missing from the report" not in capsys.readouterr().out
        assert objects_in(page_of(trained)) == {"cat": 3, "dog": 3}

        evaluate(trained, all_classes, trained)  # second way out
        capsys.readouterr()
        assert main([str(trained)]) == 0
        assert "Missing from the report" not in capsys.readouterr().out
        assert objects_in(page_of(trained)) == before

    def test_changed_annotations(self, trained, all_classes, capsys):
        path = all_classes / "Annotations" / "e.xml"
        before = path.read_text()
        path.write_text(before.replace("<xmin>20<", "<xmin>22<"))
        try:
            assert main([str(trained)]) == 0
        finally:
            path.write_text(before)
        output = capsys.readouterr().out
        assert f"on other images or annotations of --data {all_classes}; to evaluate" in output
        assert "to python -m report" not in output

    def test_without_a_record_the_newest_is_used(self, trained, capsys):
        (trained / "eval" / "data.json").write_text("{")
        assert main([str(trained)]) == 0
        assert "Missing from the report" not in capsys.readouterr().out

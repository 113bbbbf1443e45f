import json
from argparse import Namespace

import numpy as np
import pytest
import torch

from datasets.coco_eval import CocoEvaluator
from datasets.evaluation.result_formats import per_class_table, serializable_eval, write_detections
from tests.datasets.coco_cases import annotation, coco_of, prediction, random_case, run_evaluator

BOX = (10, 10, 50, 50)
OTHER = (150, 100, 40, 40)


@pytest.fixture
def evaluator():
    coco, predictions = random_case(4)
    return run_evaluator(CocoEvaluator(coco, ["bbox"]), predictions)


class TestPerClassTable:
    def table(self, categories, annotations, found, category_ids=(1, 3, 4)):
        evaluator = CocoEvaluator(coco_of(annotations, category_ids=category_ids), ["bbox"])
        run_evaluator(evaluator, {1: found})
        return per_class_table(evaluator.coco_eval["bbox"], categories).splitlines()

    def test_a_line_for_each_class_with_objects(self):
        annotations = [
            annotation(1, BOX, category_id=3),
            annotation(2, OTHER, category_id=3),
            annotation(3, OTHER, category_id=4),
            annotation(4, BOX, category_id=4, iscrowd=1),
        ]
        found = prediction([BOX, OTHER], labels=[3, 4])
        lines = self.table({1: "cat", 3: "dog", 4: "very long name"}, annotations, found)
        assert [line.split() for line in lines[:2]] == [
            ["class", "objects", "AP", "AP50", "AP75", "AR"],
            ["dog", "2", "0.505", "0.505", "0.505", "0.500"],
        ]
        assert lines[2].split()[-5:] == ["1", "1.000", "1.000", "1.000", "1.000"]
        assert lines[3:] == ["without objects: cat"]
        assert len({len(line) for line in lines[:3]}) == 1

    def test_the_classes_average_to_the_summary(self, evaluator):
        score = evaluator.coco_eval["bbox"]
        rows = [line.split() for line in per_class_table(score, {}).splitlines()[1:]]
        means = np.array([row[-4:] for row in rows], dtype=float).mean(axis=0)
        assert means == pytest.approx(score.stats[[0, 1, 2, 8]], abs=1e-3)

    def test_a_class_without_a_name_shows_its_id(self):
        assert self.table({}, [annotation(1, BOX)], prediction([]))[1].startswith("1 ")

    def test_many_absent_classes_are_counted(self):
        lines = self.table({}, [], prediction([]), category_ids=range(1, 81))
        assert lines[1:] == ["without objects: 1, 2, 3, 4, 5, 6, 7, 8 and 72 more"]


class TestSerialisableEval:
    def test_is_read_without_running_code(self, evaluator, tmp_path):
        evaluation = evaluator.coco_eval["bbox"].eval
        torch.save(serializable_eval(evaluation), tmp_path / "eval.pth")
        with torch.serialization.safe_globals([Namespace]):
            loaded = torch.load(tmp_path / "eval.pth", weights_only=True)
        assert loaded.keys() == evaluation.keys()
        for name in ("precision", "recall", "scores"):
            assert loaded[name].dtype == torch.float64
            assert np.array_equal(loaded[name].numpy(), evaluation[name])
        assert np.array_equal(loaded["params"].recThrs, evaluation["params"].recThrs)
        assert loaded["params"].catIds == [1, 3, 4]
        assert loaded["params"].areaRngLbl == ["all", "small", "medium", "large"]

    def test_numpy_numbers_become_plain_also_inside_lists(self):
        params = Namespace(catIds=[np.int64(3)], maxDets=[1], areaRng=[[np.float64(0), 1e10]])
        plain = serializable_eval({"params": params, "counts": [np.int64(10)], "date": "today"})
        assert type(plain["params"].catIds[0]) is int and type(plain["counts"][0]) is int
        assert type(plain["params"].areaRng[0][0]) is float

    def test_does_not_share_memory(self, evaluator):
        evaluation = evaluator.coco_eval["bbox"].eval
        serializable_eval(evaluation)["recall"].fill_(7)
        assert evaluation["recall"].max() <= 1


class TestWriteDetections:
    def test_reads_back_value_for_value(self, evaluator, tmp_path):
        path = tmp_path / "detections.json"
        write_detections(evaluator.detections(), path)
        assert json.loads(path.read_text()) == evaluator.detections() != []

    def test_equal_detections_give_equal_bytes(self, tmp_path):
        coco, predictions = random_case(4)
        for name, order in (("a", list(predictions)), ("b", list(predictions)[::-1])):
            evaluator = CocoEvaluator(coco, ["bbox"])
            for image_id in order:
                evaluator.update({image_id: predictions[image_id]})
            write_detections(evaluator.detections(), tmp_path / name)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_pycocotools_loads_it(self, evaluator, tmp_path):
        write_detections(evaluator.detections(), tmp_path / "d.json")
        loaded = evaluator.coco_gt.loadRes(str(tmp_path / "d.json"))
        assert len(loaded.anns) == len(evaluator.detections())

    def test_no_detections_are_an_empty_list(self, tmp_path):
        write_detections([], tmp_path / "d.json")
        assert json.loads((tmp_path / "d.json").read_text()) == []

    def test_an_entry_that_cannot_be_written_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "d.json"
        path.write_text("old")
        with pytest.raises(TypeError):
            write_detections([{"score": object()}], path)
        assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]

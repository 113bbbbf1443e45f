"""The panoptic evaluator: what it scores, writes and gathers."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datasets.panoptic_eval as panoptic_eval
from datasets.annotations.compact.panoptic import PanopticSegments
from datasets.panoptic_eval import PanopticEvaluator
from tests.datasets.panoptic_cases import id_map_of, segments_of, write_panoptic
from util.distributed import gathering
from util.errors import UserError
from util.files.panoptic_png import encode_id_map


def prediction(image_id: int, shift: int = 1) -> dict[str, Any]:
    """The truth moved to the right, under other ids."""
    moved = np.roll(id_map_of(image_id), shift, axis=1)
    ids = [one["id"] for one in segments_of(image_id)]
    renumbered = np.select([moved == i for i in ids], range(1, len(ids) + 1), 0)
    segments = [
        {"id": number, "category_id": one["category_id"], "isthing": True, "area": 1}
        for number, one in enumerate(segments_of(image_id), start=1)
    ]
    return {
        "image_id": image_id,
        "file_name": f"{image_id:012d}.png",
        "png_string": encode_id_map(renumbered),
        "segments_info": segments,
    }


def evaluator_of(root: Path, output_dir: Path | None) -> PanopticEvaluator:
    ann_file = root / "annotations" / "panoptic_val2017.json"
    return PanopticEvaluator(ann_file, root / "panoptic_val2017", output_dir)


def test_the_score_and_the_files_it_writes(tmp_path: Path) -> None:
    root, out = write_panoptic(tmp_path / "data"), tmp_path / "out"
    evaluator = evaluator_of(root, out)
    given = [prediction(30), prediction(10, shift=2)]
    kept = copy.deepcopy(given)
    evaluator.update(given[:1])
    evaluator.update(given[1:])
    evaluator.synchronize_between_processes()
    quality = evaluator.summarize()
    assert given == kept
    assert sorted(p.name for p in out.iterdir()) == [
        "000000000010.png",
        "000000000030.png",
        "predictions.json",
    ]
    written = json.loads((out / "predictions.json").read_text())
    assert [row["image_id"] for row in written["annotations"]] == [10, 30]
    assert written["annotations"][0].keys() == {"image_id", "file_name", "segments_info"}
    assert [(out / one["file_name"]).read_bytes() for one in given] == [
        one["png_string"] for one in given
    ]
    assert quality is not None and 0 < quality["All"]["pq"] < 1


def test_without_a_folder_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_panoptic(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    evaluator = evaluator_of(root, None)
    evaluator.update([prediction(10)])
    assert evaluator.summarize() is not None
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_image_named_twice_counts_once(tmp_path: Path) -> None:
    root = write_panoptic(tmp_path)
    once, twice = evaluator_of(root, None), evaluator_of(root, None)
    once.update([prediction(10)])
    twice.update([prediction(10), prediction(10, shift=3)])
    twice.update([prediction(10, shift=3)])
    assert once.summarize() == twice.summarize()


def test_results_of_all_processes_count_once_and_only_the_main_one_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_panoptic(tmp_path)
    whole, first, second = (evaluator_of(root, None) for _ in range(3))
    whole.update([prediction(10), prediction(30)])
    first.update([prediction(10)])
    second.update([prediction(30), prediction(10, shift=3)])
    everything = [*first._scored.items(), *second._scored.items()]
    monkeypatch.setattr(gathering, "gather_to_main", lambda own: everything)
    gathered = evaluator_of(root, None)
    gathered.synchronize_between_processes()
    assert gathered.summarize() == whole.summarize()
    monkeypatch.setattr(panoptic_eval, "is_main_process", lambda: False)
    assert gathered.summarize() is None


def test_image_twice_in_one_batch_is_written_once(tmp_path: Path) -> None:
    evaluator = evaluator_of(write_panoptic(tmp_path / "data"), tmp_path / "out")
    evaluator.update([prediction(10)] * 8)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["000000000010.png"]


def test_predictions_are_gone_until_an_evaluation_is_done(tmp_path: Path) -> None:
    root = write_panoptic(tmp_path / "data")
    (tmp_path / "predictions.json").write_text("of an earlier evaluation")
    evaluator = evaluator_of(root, tmp_path)
    assert not (tmp_path / "predictions.json").exists()
    evaluator.update([prediction(10)])
    evaluator.summarize()
    assert (tmp_path / "predictions.json").exists()


def test_foreign_image(tmp_path: Path) -> None:
    evaluator = evaluator_of(write_panoptic(tmp_path), None)
    with pytest.raises(UserError, match=r"image id 5, which is not in .*panoptic_val2017.json"):
        evaluator.update([{**prediction(10), "image_id": 5}])


def test_a_failed_write_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = write_panoptic(tmp_path / "data"), tmp_path / "out"
    evaluator = evaluator_of(root, out)
    evaluator.update([{**prediction(10), "segments_info": prediction(10)["segments_info"]}])
    evaluator._scored[10].entry["segments_info"][0]["odd"] = object()  # JSON cannot hold it
    with pytest.raises(TypeError):
        evaluator.summarize()
    assert [p.name for p in out.iterdir()] == ["000000000010.png"]


def test_the_ground_truth_is_read_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, readings = write_panoptic(tmp_path), []
    read = panoptic_eval.read_panoptic

    def count(*paths: str) -> PanopticSegments:
        readings.append(paths)
        return read(*paths)

    monkeypatch.setattr(panoptic_eval, "read_panoptic", count)
    for _ in range(3):
        evaluator_of(root, None).update([prediction(30)])
    assert len(readings) == 1
    write_panoptic(tmp_path, lambda data: data.update(info={}))
    evaluator_of(root, None)
    assert len(readings) == 2

"""Panoptic quality: by hand, against a plain loop, and on files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.evaluation.panoptic_quality import (
    SegmentMap,
    SegmentMatches,
    match_segments,
    summarize_matches,
)
from datasets.panoptic_eval import PanopticEvaluator, quality_table
from tests.datasets.panoptic_cases import (
    CATEGORIES,
    DOG,
    GRASS,
    PERSON,
    SKY,
    id_map_of,
    segments_of,
    write_panoptic,
)
from util.errors import UserError
from util.files.panoptic_png import encode_id_map

IS_THING = {row["id"]: bool(row["isthing"]) for row in CATEGORIES}


def segment_map(rows: list[str], categories: dict[int, int], crowds: tuple[int, ...] = ()) -> Any:
    """A map drawn in digits, 0 being void."""
    id_map = np.array([[int(digit) for digit in row] for row in rows])
    segments = [
        {"id": i, "category_id": c, "iscrowd": int(i in crowds)} for i, c in categories.items()
    ]
    return SegmentMap(id_map, segments)


def slow_matches(truth: SegmentMap, predicted: SegmentMap) -> SegmentMatches:
    """The definition, segment by segment on masks."""
    void = truth.id_map == 0
    tp, used_truth, used_predicted = [], set(), set()
    for t in truth.segments:
        for p in predicted.segments:
            a, b = truth.id_map == t["id"], predicted.id_map == p["id"]
            iou = (a & b).sum() / (a | (b & ~void)).sum()
            if iou > 0.5 and t["category_id"] == p["category_id"] and not t["iscrowd"]:
                tp.append((t["category_id"], float(iou)))
                used_truth.add(t["id"])
                used_predicted.add(p["id"])
    fp = []
    for p in predicted.segments:
        ignored = void.copy()
        for t in truth.segments:
            if t["iscrowd"] and t["category_id"] == p["category_id"]:
                ignored |= truth.id_map == t["id"]
        mask = predicted.id_map == p["id"]
        if p["id"] not in used_predicted and (mask & ignored).sum() <= 0.5 * mask.sum():
            fp.append(p["category_id"])
    unmatched = [t for t in truth.segments if t["id"] not in used_truth and not t["iscrowd"]]
    return SegmentMatches(tp, fp, [t["category_id"] for t in unmatched])


def random_map(rng: np.random.Generator, lowest_id: int) -> SegmentMap:
    """Blocks of random ids on a 12 x 12 map."""
    ids = rng.choice(2**24, size=5, replace=False)
    ids[0] = lowest_id
    id_map = np.repeat(np.repeat(rng.choice(ids, size=(4, 4)), 3, axis=0), 3, axis=1)
    segments = [
        {
            "id": int(i),
            "category_id": int(rng.choice([PERSON, SKY])),
            "iscrowd": int(rng.random() < 0.3),
        }
        for i in np.unique(id_map)
        if i
    ]
    return SegmentMap(id_map, segments)


def test_same_as_the_plain_loop() -> None:
    rng = np.random.default_rng(0)
    matched = 0
    for _ in range(200):
        truth = random_map(rng, lowest_id=0)
        predicted = random_map(rng, lowest_id=0)
        if rng.random() < 0.5:  # something to match: the truth, shifted and relabeled in part
            moved = np.roll(truth.id_map, int(rng.integers(0, 3)), axis=1)
            predicted = SegmentMap(moved, [{**one} for one in truth.segments])
        fast, slow = match_segments(truth, predicted, 1), slow_matches(truth, predicted)
        assert sorted(fast.true_positives) == sorted(slow.true_positives)
        assert sorted(fast.false_positives) == sorted(slow.false_positives)
        assert sorted(fast.false_negatives) == sorted(slow.false_negatives)
        matched += len(fast.true_positives)
    assert matched > 100


def test_half_is_not_enough() -> None:
    truth = segment_map(["1111"], {1: PERSON})
    half = segment_map(["1100"], {1: PERSON})
    assert match_segments(truth, half, 1) == ([], [PERSON], [PERSON])
    more = segment_map(["1110"], {1: PERSON})
    assert match_segments(truth, more, 1) == ([(PERSON, 0.75)], [], [])


def test_what_a_prediction_claims_of_void_is_not_held_against_it() -> None:
    truth = segment_map(["1100"], {1: PERSON})
    predicted = segment_map(["1111"], {1: PERSON})
    assert match_segments(truth, predicted, 1) == ([(PERSON, 1.0)], [], [])
    on_void = segment_map(["0111"], {1: DOG})
    assert match_segments(truth, on_void, 1) == ([], [], [PERSON])


def test_crowds_excuse_their_own_category_and_are_never_missed() -> None:
    truth = segment_map(["112233"], {1: PERSON, 2: PERSON, 3: DOG}, crowds=(1, 2, 3))
    # Two crowds of the category together are more than half.
    person, dog = (segment_map(["111100"], {1: c}) for c in (PERSON, DOG))
    assert match_segments(truth, person, 1) == ([], [], [])
    assert match_segments(truth, dog, 1) == ([], [DOG], [])


def test_segment_zero_of_a_prediction_is_one_if_listed() -> None:
    truth = segment_map(["1122"], {1: PERSON, 2: SKY})
    predicted = segment_map(["0011"], {0: PERSON, 1: SKY})
    assert match_segments(truth, predicted, 1).true_positives == [(PERSON, 1.0), (SKY, 1.0)]


def test_no_segments_at_all() -> None:
    nothing, something = segment_map(["00"], {}), segment_map(["11"], {1: SKY})
    assert match_segments(nothing, nothing, 1) == ([], [], [])
    assert match_segments(something, nothing, 1) == ([], [], [SKY])
    assert match_segments(nothing, something, 1) == ([], [], [])


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        (segment_map(["11"], {1: SKY}), "image id 7: the prediction has size"),
        (segment_map(["1112"], {1: SKY}), "image id 7: prediction has segment ids .* lacks: 2"),
        (segment_map(["1111"], {1: SKY, 2: SKY}), "image id 7: prediction lacks segment ids .*: 2"),
    ],
)
def test_map_that_is_not_of_one_piece(predicted: SegmentMap, message: str) -> None:
    with pytest.raises(UserError, match=message):
        match_segments(segment_map(["1111"], {1: SKY}), predicted, 7)


def test_id_listed_twice() -> None:
    twice = SegmentMap(np.array([[1]]), [{"id": 1, "category_id": 3}] * 2)
    with pytest.raises(UserError, match="prediction lists a segment id twice"):
        match_segments(segment_map(["1"], {1: SKY}), twice, 7)


def test_means_over_what_occurs() -> None:
    images = [
        SegmentMatches([(PERSON, 0.8), (SKY, 0.6)], [PERSON], []),
        SegmentMatches([(PERSON, 0.6)], [999], [SKY]),
    ]
    quality = summarize_matches(images, IS_THING)
    person, sky = quality["per_class"][PERSON], quality["per_class"][SKY]
    assert person["pq"] == pytest.approx(1.4 / 2.5) and person["sq"] == pytest.approx(0.7)
    assert sky["rq"] == pytest.approx(1 / 1.5) and sky["pq"] == pytest.approx(0.6 / 1.5)
    assert quality["All"]["n"] == 2 and quality["Things"]["n"] == quality["Stuff"]["n"] == 1
    assert quality["All"]["pq"] == pytest.approx((1.4 / 2.5 + 0.4) / 2)
    assert quality["per_class"][DOG]["pq"] == 0 and 999 not in quality["per_class"]
    assert summarize_matches([], IS_THING)["All"] == {"pq": 0, "sq": 0, "rq": 0, "n": 0}
    table = quality_table(quality, {row["id"]: row["name"] for row in CATEGORIES})
    assert "person" in table and "dog" not in table and "56.0" in table


# ---- files with known damage: areas of `id_map_of` are person 20, dog 18, sky 84, grass 66


def score(root: Path, damage: Callable[[np.ndarray, list[dict[str, Any]]], Any]) -> Any:
    """PQ of a prediction that is the truth, but for image 10, which ``damage`` changes in place."""
    write_panoptic(root)
    rows = []
    for image_id in (10, 30):
        id_map, segments = id_map_of(image_id), segments_of(image_id)
        if image_id == 10:
            damage(id_map, segments)
        row = {"image_id": image_id, "file_name": "", "segments_info": segments}
        rows.append({**row, "png_string": encode_id_map(id_map)})
    truth = root / "annotations" / "panoptic_val2017.json"
    evaluator = PanopticEvaluator(truth, root / "panoptic_val2017", output_dir=None)
    evaluator.update(rows)
    return evaluator.summarize()


def pq_by_class(quality: Any) -> list[float]:
    return [quality["per_class"][category]["pq"] for category in (PERSON, DOG, SKY, GRASS)]


def test_truth_against_itself(tmp_path: Path) -> None:
    quality = score(tmp_path, lambda id_map, segments: None)
    assert pq_by_class(quality) == [1.0] * 4
    assert quality["All"] == {"pq": 1.0, "sq": 1.0, "rq": 1.0, "n": 4}


def test_one_segment_dropped(tmp_path: Path) -> None:
    def drop_dog(id_map: np.ndarray, segments: list[dict[str, Any]]) -> None:
        id_map[id_map == 10002] = 0
        del segments[1]

    quality = score(tmp_path, drop_dog)
    assert pq_by_class(quality) == pytest.approx([1, 1 / 1.5, 1, 1])
    assert quality["Things"]["pq"] == pytest.approx((1 + 1 / 1.5) / 2)


def test_two_segments_merged(tmp_path: Path) -> None:
    def person_into_grass(id_map: np.ndarray, segments: list[dict[str, Any]]) -> None:
        id_map[id_map == 10001] = 10004
        del segments[0]

    quality = score(tmp_path, person_into_grass)
    grass = (66 / (66 + 20) + 1) / 2
    assert pq_by_class(quality) == pytest.approx([1 / 1.5, 1, 1, grass])


def test_one_segment_relabelled(tmp_path: Path) -> None:
    def dog_is_person(id_map: np.ndarray, segments: list[dict[str, Any]]) -> None:
        segments[1]["category_id"] = PERSON

    quality = score(tmp_path, dog_is_person)
    # Two people found of two, and one too many; one dog of two.
    assert pq_by_class(quality) == pytest.approx([2 / 2.5, 1 / 1.5, 1, 1])


def test_category_that_the_truth_lacks_never_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def dog_is_unknown(id_map: np.ndarray, segments: list[dict[str, Any]]) -> None:
        segments[1]["category_id"] = 249

    quality = score(tmp_path, dog_is_unknown)
    assert pq_by_class(quality) == pytest.approx([1, 1 / 1.5, 1, 1])
    assert "1 segment has a predicted category" in capsys.readouterr().out

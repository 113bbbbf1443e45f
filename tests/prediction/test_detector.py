"""The Python API: images of all kinds in, arrays with names out."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

import prediction.detector
from export.weights import read_weights, write_weights
from prediction.detector import Detector
from tests.datasets.photo_cases import (
    ORIENTATIONS,
    PATCH_XYWH,
    UPRIGHT_WH,
    upright_image,
    write_photo,
)
from tests.export.small_files import (
    CATEGORIES,
    NARROW_BOXES,
    NARROW_MASKS,
    source,
    write_checkpoint,
)
from tests.prediction.red_finder import red_finder
from util.category_ids import CategoryIds
from util.errors import UserError

X, Y, WIDTH, HEIGHT = PATCH_XYWH
PATCH_XYXY = [X, Y, X + WIDTH, Y + HEIGHT]


@pytest.fixture
def detector():
    return Detector(red_finder(), "cpu")


def pixels(*size_hw, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


def small(architecture):
    """A model with random weights and small input images."""
    return dataclasses.replace(source(architecture), short_side=96, max_size=160)


def test_arrays_with_names(detector):
    found = detector.predict(np.asarray(upright_image()), threshold=0.1)
    assert found.size_hw == UPRIGHT_WH[::-1] and len(found) == 2
    assert found.names == ["red patch", "other"]
    assert found.category_ids.tolist() == [1, 2]
    assert found.queries.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.4])
    np.testing.assert_allclose(found.boxes_xyxy[0], PATCH_XYXY, atol=1)
    assert found.boxes_xyxy.dtype == found.scores.dtype == np.float32
    assert found.masks is None and found.segment_map is None


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_photos_are_turned_upright(orientation, detector, tmp_path):
    path = tmp_path / "photo.jpg"
    write_photo(path, orientation)
    with Image.open(path) as opened:
        for photo in (str(path), path, opened):
            found = detector.predict(photo)
            assert found.size_hw == UPRIGHT_WH[::-1]
            np.testing.assert_allclose(found.boxes_xyxy, [PATCH_XYXY], atol=1.5)


def test_one_image_gives_a_prediction_and_several_a_list(detector):
    image = upright_image()
    assert len(detector.predict(image)) == 1
    for several in ([image, image], iter([image, image]), np.stack([np.asarray(image)] * 2)):
        assert [found.names for found in detector.predict(several)] == [["red patch"]] * 2
    assert detector.predict([]) == []


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_images_of_any_mode(mode, detector):
    image = Image.new("I;16", (40, 30)) if mode == "I;16" else upright_image().convert(mode)
    assert detector.predict(image).size_hw == image.size[::-1]


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((2, 4, 4, 1), np.uint8)]
)
def test_other_arrays_are_refused(array, detector):
    with pytest.raises(ValueError, match="expected a uint8 array"):
        detector.predict(array)


def test_an_image_that_cannot_be_read(detector, tmp_path):
    with pytest.raises(UserError, match=r"no\.jpg does not exist"):
        detector.predict(tmp_path / "no.jpg")


# ---- what is kept --------------------------------------------------------------------------------


@pytest.mark.parametrize(("stored", "expected"), [(None, 1), (0.1, 2), (0.95, 0)])
def test_the_threshold_of_the_training_is_the_default(stored, expected):
    detector = Detector(red_finder(best_threshold=stored), "cpu")
    assert len(detector.predict(upright_image())) == expected
    assert len(detector.predict(upright_image(), threshold=0.5)) == 1
    assert ("best F1 on the validation images" in detector.describe()) == (stored is not None)


def test_classes_by_name(detector):
    found = detector.predict(upright_image(), threshold=0, classes=["other"])
    assert found.names == ["other"]
    with pytest.raises(UserError, match=r"no class 'othr', did you mean other\?"):
        detector.predict(upright_image(), classes=["othr"])
    with pytest.raises(UserError, match="no class 'x'; its classes are red patch, other"):
        detector.predict(upright_image(), classes=["x"])


def test_classes_without_names_have_numbers():
    detector = Detector(red_finder(categories={}), "cpu")
    assert detector.predict(upright_image(), classes=["class 1"]).names == ["class 1"]


def test_rows_without_a_class_are_not_detected():
    """A head with COCO's 91 rows on data with fewer classes has rows that no object trains."""
    changes = {"categories": {1: "red patch"}, "is_thing": {1: True}}
    for unused_ids in (frozenset(), frozenset({0, 2})):
        loaded = red_finder(panoptic=True, unused_ids=unused_ids, **changes)
        found = Detector(loaded, "cpu").predict(upright_image(), threshold=0.1)
        others = [] if unused_ids else ["class 2"]  # a file may store a part of the names
        assert [segment["name"] for segment in found.segments] == ["red patch", *others]
        loaded = red_finder(unused_ids=unused_ids, categories=changes["categories"])
        found = Detector(loaded, "cpu").predict(upright_image(), threshold=0.1)
        assert found.names == ["red patch", *others]


@pytest.mark.parametrize(
    ("own", "expected"), [((7, 5, 9_000_000), [5, 9_000_000]), (("a", "rbc", "12"), ["rbc", "12"])]
)
def test_ids_are_those_of_the_users_files(own, expected):
    by_row = CategoryIds(own).by_row
    names = {by_row[1]: "red patch", by_row[2]: "other"}
    is_thing = {by_row[1]: True, by_row[2]: False}
    loaded = red_finder(categories=names, category_ids=own)
    found = Detector(loaded, "cpu").predict(upright_image(), threshold=0.1)
    assert found.category_ids.tolist() == expected and found.names == ["red patch", "other"]
    loaded = red_finder(panoptic=True, categories=names, category_ids=own, is_thing=is_thing)
    detector = Detector(loaded, "cpu")
    found = detector.predict(upright_image(), threshold=0.1, classes=["red patch", "other"])
    assert [segment["category_id"] for segment in found.segments] == expected
    assert [row["id"] for row in detector.categories()] == expected
    assert found.category_ids.tolist() == expected[:1]


# ---- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [NARROW_BOXES, NARROW_MASKS], ids=["boxes", "masks"])
def test_a_batch_gives_the_same_as_each_image_alone(architecture):
    detector = Detector(small(architecture), "cpu")
    sizes = [(60, 80), (90, 60), (60, 80), (33, 200), (90, 60), (60, 80), (120, 160)]
    images = [pixels(*size, seed=number) for number, size in enumerate(sizes)]
    together = detector.predict(images, threshold=0, batch_size=3)
    for image, found in zip(images, together, strict=True):
        alone = detector.predict(image, threshold=0)
        assert found.size_hw == image.shape[:2]
        assert found.queries.tolist() == alone.queries.tolist()
        scale = np.array([*image.shape[1::-1]] * 2)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
        np.testing.assert_allclose(found.boxes_xyxy / scale, alone.boxes_xyxy / scale, atol=1e-5)
        if architecture.masks:
            assert (found.masks != alone.masks).mean() < 1e-3


def test_the_model_is_optimized_and_the_original_does_not_change():
    loaded = small(NARROW_BOXES)
    detector = Detector(loaded, "cpu")
    with pytest.raises(RuntimeError, match="returned by optimize_for_inference cannot be trained"):
        detector.loaded.model.train()
    loaded.model.train()  # the original still can
    assert not detector.loaded.model.training


def test_images_of_one_size_share_a_batch():
    loaded = red_finder()
    Detector(loaded, "cpu").predict([pixels(64, 64), pixels(64, 96), pixels(64, 64)], batch_size=4)
    assert loaded.model.batch_shapes == [(2, 3, 64, 64), (1, 3, 64, 96)]


def test_results_come_in_order_and_few_images_are_in_memory(detector):
    read = []

    def images():
        for number in range(100):
            read.append(number)
            yield number, upright_image((48 + 8 * (number % 3), 48))

    stream = detector.stream(images(), batch_size=2)
    for number in range(20):
        key, image, found = next(stream)
        assert key == number and found.size_hw == image.size[::-1]
        assert len(read) <= number + 8


def test_an_image_that_the_model_refuses_does_not_end_the_rest():
    loaded = red_finder()
    forward = loaded.model.forward

    def refuse_wide(batch):
        if batch.shape[-1] > 100:
            raise UserError("too wide")
        return forward(batch)

    loaded.model.forward = refuse_wide
    detector = Detector(loaded, "cpu")
    pairs = [(0, upright_image()), (1, upright_image((160, 40))), (2, upright_image())]
    errors = []
    stream = detector.stream(pairs, on_error=lambda key, error: errors.append((key, str(error))))
    assert [key for key, *_ in stream] == [0, 2]
    assert errors == [(1, "too wide")]
    with pytest.raises(UserError, match="too wide"):
        list(detector.stream(pairs))


# ---- masks ---------------------------------------------------------------------------------------


def test_masks_have_the_size_of_the_image():
    found = Detector(red_finder(masks=True), "cpu").predict(upright_image())
    assert found.masks.shape == (1, *UPRIGHT_WH[::-1]) and found.masks.dtype == bool
    ys, xs = found.masks[0].nonzero()
    edges = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    np.testing.assert_allclose(edges, PATCH_XYXY, atol=1)
    assert Detector(red_finder(masks=True), "cpu").predict(upright_image(), 1).masks.shape[0] == 0


def test_a_panoptic_model_has_segments_and_detections_of_things():
    detector = Detector(red_finder(panoptic=True), "cpu")
    found = detector.predict(upright_image(), threshold=0.1)
    assert found.names == ["red patch"]
    assert [segment["name"] for segment in found.segments] == ["red patch", "other"]
    assert [segment["isthing"] for segment in found.segments] == [True, False]
    ids, areas = np.unique(found.segment_map, return_counts=True)
    assert ids.tolist() == [segment["id"] for segment in found.segments] == [1, 2]
    assert areas.tolist() == [segment["area"] for segment in found.segments]
    assert found.segment_map[8, 10] == 1 and found.segment_map[0, 0] == 2


def test_segments_of_other_classes_are_void():
    detector = Detector(red_finder(panoptic=True), "cpu")
    found = detector.predict(upright_image(), threshold=0.1, classes=["other"])
    assert found.names == [] and [s["name"] for s in found.segments] == ["other"]
    assert found.segment_map[8, 10] == 0 and found.segment_map[0, 0] == 1
    nothing = detector.predict(upright_image(), threshold=1)
    assert nothing.segments == [] and not nothing.segment_map.any()


# ---- models --------------------------------------------------------------------------------------


def test_a_checkpoint_by_its_path(tmp_path):
    write_checkpoint(tmp_path / "c.pth", NARROW_BOXES)
    detector = Detector(tmp_path / "c.pth", "cpu")
    found = detector.predict(pixels(60, 80), threshold=0)
    assert len(found) == NARROW_BOXES.num_queries
    assert set(found.names) <= {*CATEGORIES.values(), *(f"class {i}" for i in range(91))}
    assert detector.categories() == [{"id": i, "name": name} for i, name in CATEGORIES.items()]


def test_the_default_threshold_of_a_focal_model_is_lower():
    loaded = red_finder()
    loaded.model.cls_loss = "focal"
    assert Detector(loaded, "cpu").threshold == 0.2
    assert Detector(red_finder(), "cpu").threshold == 0.5


@pytest.mark.parametrize(
    ("entries", "raw", "averaged"),
    [
        ({"thresholds": {"best_f1": 0.3}}, 0.3, 0.5),
        ({"thresholds": {}}, 0.5, 0.5),
        ({"thresholds": {"best_f1": "x"}}, 0.5, 0.5),
        ({"thresholds": {"best_f1": True}}, 0.5, 0.5),
        (
            {"thresholds": {"best_f1": 0.3}, "progress": {"ema_thresholds": {"best_f1": 0.4}}},
            0.3,
            0.4,
        ),
        ({"thresholds": {"best_f1": 0.4}, "best_weights": "ema"}, 0.5, 0.4),
    ],
)
def test_the_threshold_is_that_of_the_weights(entries, raw, averaged, tmp_path):
    write_checkpoint(tmp_path / "c.pth", NARROW_BOXES)
    content = torch.load(tmp_path / "c.pth", weights_only=True)
    torch.save({**content, "ema": content["model"], **entries}, tmp_path / "c.pth")
    assert Detector(tmp_path / "c.pth", "cpu").threshold == raw
    assert Detector(tmp_path / "c.pth", "cpu", ema=True).threshold == averaged


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_threshold_is_kept_with_converted_weights(suffix, tmp_path):
    write_checkpoint(tmp_path / "c.pth", NARROW_BOXES)
    content = torch.load(tmp_path / "c.pth", weights_only=True)
    torch.save(
        {**content, "thresholds": {"best_f1": 0.3, "by_class": {1: 0.2}}}, tmp_path / "c.pth"
    )
    converted = tmp_path / f"converted{suffix}"
    write_weights(converted, read_weights(tmp_path / "c.pth"))
    assert Detector(converted, "cpu").threshold == 0.3


def test_released_models_by_name(monkeypatch):
    asked = []
    monkeypatch.setattr(
        prediction.detector, "released_model", lambda *given: asked.append(given) or red_finder()
    )
    for pretrained in (True, False):
        detector = Detector.hub("detr_demo", "cpu", pretrained=pretrained)
        assert len(detector.predict(upright_image())) == 1
    assert [given[:2] for given in asked] == [("detr_demo", False), ("detr_demo", True)]
    with pytest.raises(UserError, match=r"detr_resnet5, did you mean detr_resnet50\?"):
        Detector.hub("detr_resnet5", "cpu")


def test_mixed_precision_is_used():
    detector = Detector(small(NARROW_BOXES), "cpu", "bf16")
    exact = Detector(small(NARROW_BOXES), "cpu").predict(pixels(60, 80), 0)
    found = detector.predict(pixels(60, 80), 0)
    difference = np.abs(np.sort(found.scores) - np.sort(exact.scores)).max()
    assert 0 < difference < 0.2


@pytest.mark.parametrize(("fast", "amp"), [(True, "bf16"), (False, "off")])
def test_auto_computes_in_bf16_where_that_is_fast(monkeypatch, fast, amp):
    monkeypatch.setattr("util.system.precision.has_fast_bf16", lambda device: fast)
    assert Detector(red_finder(), "cpu", "auto").amp == amp
    with pytest.raises(ValueError, match="expected amp off, bf16, fp16 or auto"):
        Detector(red_finder(), "cpu", "half")
    detector = Detector(red_finder(), "cpu")
    detector.amp = "auto"
    assert detector.amp == amp and "--amp auto" in str(detector.precision)
    with pytest.raises(ValueError, match="expected amp off, bf16, fp16 or auto"):
        detector.amp = "half"

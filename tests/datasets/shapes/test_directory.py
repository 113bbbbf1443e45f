"""The synthetic shapes dataset: what its images promise, COCO's format, and writing it safely."""

import argparse
import hashlib
import json
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from datasets.shapes import directory as shapes
from datasets.shapes import drawing as shapes_drawing
from datasets.shapes import paint as shapes_paint
from datasets.shapes import split
from datasets.shapes.directory import write_shapes
from datasets.shapes.drawing import STUFF_CLASSES, THING_CLASSES, draw_scene, tight_box
from datasets.shapes.split import encode_png, run_lengths
from util.errors import UserError
from util.system import forked

# pycocotools, not we: its compiled decoder speaks numpy 1's protocol.

SMALL = {"num_train": 6, "num_val": 3, "image_size": 64}


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(np.random.default_rng([1, index]), 128) for index in range(300)]


@pytest.fixture(scope="module")
def things(scenes):
    return [thing for scene in scenes for thing in scene.things]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("shapes") / "set"
    write_shapes(path, **SMALL)
    return path


def load(root, kind, split):
    return json.loads((root / "annotations" / f"{kind}_{split}2017.json").read_text())


def all_bytes(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# ---- what the pictures promise


def test_every_image_has_one_to_five_objects_and_every_number_occurs(scenes):
    assert {len(scene.things) for scene in scenes} == {1, 2, 3, 4, 5}


def test_whole_and_visible_boxes_keep_their_sides(things):
    sides = np.array([tight_box(thing.mask)[2:] for thing in things]) / 128
    assert sides.min() >= 0.15 and sides.max() <= 0.60
    assert sides.min() < 0.20 and sides.max() > 0.55  # the range is used


def test_a_fifth_of_the_objects_is_partly_covered_and_none_too_much(things):
    shares = np.array([thing.visible_share for thing in things])
    assert (shares < 0.95).mean() > 0.2
    assert shares.min() >= shapes_drawing.MIN_VISIBLE_SHARE
    assert (shares < 1).mean() < 0.5


def test_visible_share_counts_what_later_objects_hide():
    """Shapes placed before anything is painted show how large each object is when alone."""
    rng = np.random.default_rng(3)
    placed, labels = shapes_drawing._place_objects(rng, 96)
    for number, item in enumerate(placed, start=1):
        alone = np.zeros((96, 96), dtype=bool)
        alone[item.window] = item.mask
        covered = np.zeros_like(alone)
        for later in placed[number:]:
            covered[later.window] |= later.mask
        np.testing.assert_array_equal(labels == number, alone & ~covered)


def test_all_classes_are_about_as_frequent(scenes, things):
    counts = Counter(thing.class_name for thing in things)
    assert set(counts) == set(THING_CLASSES) and len(counts) >= 5
    assert min(counts.values()) > 0.12 * len(things)
    grounds = Counter(ground.class_name for scene in scenes for ground in scene.stuff)
    assert set(grounds) == set(STUFF_CLASSES)
    assert min(grounds.values()) > 0.2 * sum(grounds.values())


def test_color_says_nothing_about_the_class_of_a_thing(scenes):
    """No thing class's mean color is further from the common mean than chance allows."""
    names, colors = [], []
    for scene in scenes:
        for thing in scene.things:
            names.append(thing.class_name)
            colors.append(scene.image[thing.mask].mean(axis=0))
    names, colors = np.array(names), np.array(colors)
    for name in THING_CLASSES:
        own = colors[names == name]
        standard_error = colors.std(axis=0) / np.sqrt(len(own))
        assert (abs(own.mean(axis=0) - colors.mean(axis=0)) < 4 * standard_error).all(), name


def test_a_ground_leans_to_the_hue_of_its_class(scenes):
    """The strongest channel of a background's mean color nearly always identifies its class."""
    told = [
        scene.image[segment.mask].mean(axis=0).argmax()
        == shapes_drawing.LEADING_CHANNELS[segment.class_name]
        for scene in scenes
        for segment in scene.stuff
    ]
    assert np.mean(told) > 0.95


def test_objects_stand_out_from_what_is_around_them(scenes):
    """The mean color of an object differs from that of the frame of pixels around its box."""
    gaps = []
    for scene in scenes:
        for thing in scene.things:
            x, y, width, height = tight_box(thing.mask)
            around = np.zeros_like(thing.mask)
            around[max(y - 3, 0) : y + height + 3, max(x - 3, 0) : x + width + 3] = True
            around[y : y + height, x : x + width] = False
            inside, outside = (scene.image[m].mean(axis=0) for m in (thing.mask, around))
            gaps.append(np.linalg.norm(inside - outside))
    assert np.quantile(gaps, 0.05) > 50


def test_segments_share_out_all_pixels(scenes):
    for scene in scenes:
        owners = sum(segment.mask.astype(int) for segment in (*scene.things, *scene.stuff))
        assert (owners == 1).all()
        assert len({ground.class_name for ground in scene.stuff}) == len(scene.stuff) in (1, 2)


def test_same_seed_same_pixels_on_every_machine():
    """Pinned: a change of this hash needs a new `FORMAT_VERSION`."""
    digest = hashlib.sha256()
    for index in range(8):
        scene = draw_scene(np.random.default_rng([0, 1, index]), 64)
        digest.update(scene.image.tobytes())
        for segment in (*scene.things, *scene.stuff):
            digest.update(segment.class_name.encode() + np.packbits(segment.mask).tobytes())
    assert shapes.FORMAT_VERSION == 2
    assert digest.hexdigest()[:16] == "a22dddbb6ebce4c5"


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match="at least 64 pixels, got 63"):
        draw_scene(np.random.default_rng(0), 63)


# ---- shapes, boxes, colors, textures


def corners_of(class_name):
    """The outline of a shape as a polygon, from its description rather than its level function."""

    def on_circle(degrees, radius=1.0):
        return radius * np.cos(np.radians(degrees)), radius * np.sin(np.radians(degrees))

    if class_name == "ellipse":
        return [on_circle(degrees) for degrees in np.arange(0, 360, 0.5)]
    if class_name == "rectangle":
        return [on_circle(degrees) for degrees in (45, 135, 225, 315)]
    if class_name == "triangle":
        return [on_circle(degrees) for degrees in (-90, 30, 150)]
    if class_name == "star":
        waist = np.cos(np.radians(72)) / np.cos(np.radians(36))
        return [on_circle(36 * k - 90, 1.0 if k % 2 == 0 else waist) for k in range(10)]
    arm, half = 0.95, 0.3
    quarter = [(half, half), (half, arm), (-half, arm)]
    turns = [(1, 0), (0, 1), (-1, 0), (0, -1)]
    return [(x * c - y * s, x * s + y * c) for c, s in turns for x, y in quarter]


def is_inside(polygon, x, y):
    """Even-odd rule, edge by edge."""
    inside = False
    for (x1, y1), (x2, y2) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) / (y2 - y1) * (x2 - x1):
            inside = not inside
    return inside


@pytest.mark.parametrize("class_name", THING_CLASSES)
def test_level_functions_are_negative_inside_the_outline(class_name):
    points = np.random.default_rng(0).uniform(-1.1, 1.1, size=(400, 2))
    level = shapes_drawing._SHAPES[class_name](points[:, 0], points[:, 1])
    clear = abs(level) > 1e-3
    polygon = corners_of(class_name)
    expected = np.array([is_inside(polygon, x, y) for x, y in points])
    np.testing.assert_array_equal((level < 0)[clear], expected[clear])
    assert 0.1 < expected.mean() < 0.9


def test_tight_box_is_that_of_a_loop_over_pixels():
    rng = np.random.default_rng(0)
    for density in (0.02, 0.2, 1.0):
        mask = rng.random((9, 13)) < density
        mask[4, 5] = True
        ys, xs = zip(*[(y, x) for y in range(9) for x in range(13) if mask[y, x]], strict=True)
        expected = (min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1)
        assert tight_box(mask) == expected


def test_an_empty_mask_has_no_box():
    with pytest.raises(ValueError, match="empty mask"):
        tight_box(np.zeros((3, 3), dtype=bool))


def test_distinct_color_keeps_the_gap_or_goes_as_far_as_it_can():
    gray = np.full(3, 0.5)
    for seed in range(20):
        color = shapes_paint.distinct_color(np.random.default_rng(seed), [gray])
        assert np.linalg.norm(color - gray) >= shapes_paint.MIN_COLOR_GAP
    crowded = [np.array([r, g, b]) / 4 for r in range(5) for g in range(5) for b in range(5)]
    color = shapes_paint.distinct_color(np.random.default_rng(0), crowded)
    assert min(np.linalg.norm(color - other) for other in crowded) > 0.1


def test_nearby_colors_keep_to_the_contrast_and_the_cube():
    for seed, start in enumerate(np.random.default_rng(0).integers(0, 2, size=(20, 3))):
        color = start.astype(float)
        near = shapes_paint.nearby_color(np.random.default_rng(seed), color, (0.2, 0.35))
        assert 0.2 <= np.linalg.norm(near - color) <= 0.35
        assert near.min() >= 0 and near.max() <= 1


def test_textures_differ_in_structure():
    """Stripes do not change along v, checks swap their colors from cell to cell, stones do not."""
    u, v = (axis.astype(np.float32) for axis in np.meshgrid(range(8), range(8)))
    weights = {
        name: function(np.random.default_rng(0), u, v)
        for name, function in shapes_paint._TEXTURES.items()
    }
    assert set(weights) == set(STUFF_CLASSES)
    np.testing.assert_array_equal(weights["stripes"], np.tile([1, 0], (8, 4)))
    np.testing.assert_array_equal(weights["checks"], np.indices((8, 8)).sum(axis=0) % 2)
    assert len(np.unique(weights["mosaic"])) == 64


# ---- COCO's format


@pytest.mark.parametrize("name", split.SPLITS)
def test_instances_agree_with_images_and_panoptic_maps(root, name):
    coco = COCO(root / "annotations" / f"instances_{name}2017.json")
    panoptic = load(root, "panoptic", name)
    by_image = {row["image_id"]: row for row in panoptic["annotations"]}
    assert sorted(coco.imgs) == list(coco.imgs) == list(by_image)
    for image_id, image in coco.imgs.items():
        with Image.open(root / f"{name}2017" / image["file_name"]) as picture:
            assert (picture.mode, picture.size) == ("RGB", (image["width"], image["height"]))
        coded = np.array(Image.open(root / f"panoptic_{name}2017" / image["file_name"]))
        segment_ids = coded.astype(int) @ [1, 256, 256**2]
        segments = {row["id"]: row for row in by_image[image_id]["segments_info"]}
        assert set(np.unique(segment_ids)) == set(segments)
        for segment_id, segment in segments.items():
            mask = segment_ids == segment_id
            assert segment["area"] == mask.sum() and segment["bbox"] == list(tight_box(mask))
        annotations = coco.imgToAnns[image_id]
        assert len(annotations) >= 1
        for annotation in annotations:
            mask = segment_ids == annotation["id"]
            np.testing.assert_array_equal(coco.annToMask(annotation), mask)
            shared = ("bbox", "area", "category_id", "iscrowd")
            assert [annotation[k] for k in shared] == [
                segments[annotation["id"]][k] for k in shared
            ]


def test_categories_are_things_and_stuff(root):
    panoptic = load(root, "panoptic", "val")["categories"]
    assert [row["name"] for row in panoptic] == [*THING_CLASSES, *STUFF_CLASSES]
    assert [row["id"] for row in panoptic] == list(range(1, len(panoptic) + 1))
    assert [row["name"] for row in panoptic if row["isthing"]] == list(THING_CLASSES)
    assert load(root, "instances", "val")["categories"] == panoptic[: len(THING_CLASSES)]


def test_visible_share_is_written(root):
    rows = load(root, "instances", "train")["annotations"]
    assert all(0.5 <= row["visible_share"] <= 1 for row in rows)


@pytest.mark.parametrize("fill", [0.0, 0.3, 1.0])
def test_run_lengths_are_those_of_a_loop_and_of_pycocotools(fill):
    mask = np.random.default_rng(0).random((5, 7)) < fill
    expected, current = [0], False
    for value in mask.T.reshape(-1):
        if value != current:
            expected.append(0)
            current = value
        expected[-1] += 1
    coded = run_lengths(mask)
    assert coded == {"counts": expected, "size": [5, 7]}
    np.testing.assert_array_equal(coco_mask.decode(coco_mask.frPyObjects(coded, 5, 7)), mask)


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 7, 3), (64, 64, 3)])
def test_png_files_read_back_unchanged(tmp_path, shape):
    image = np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(encode_png(image))
    with Image.open(tmp_path / "a.png") as read:
        read.verify()  # checksums
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "a.png")), image)


# ---- the same files, once and whole


def test_two_writes_give_the_same_bytes(root, tmp_path):
    write_shapes(tmp_path / "again", **SMALL)
    assert all_bytes(tmp_path / "again") == all_bytes(root)


def test_several_processes_write_the_same_bytes(root, tmp_path, monkeypatch):
    monkeypatch.setattr(split, "_MIN_PER_PROCESS", 1)
    monkeypatch.setattr(forked, "_num_cores", lambda: 4)
    write_shapes(tmp_path / "again", **SMALL)
    assert all_bytes(tmp_path / "again") == all_bytes(root)


def test_annotations_of_a_seed_are_pinned(root):
    """Pinned in addition to the pixels: a change of this hash needs a new `FORMAT_VERSION`."""
    text = (root / "annotations" / "instances_val2017.json").read_bytes()
    assert hashlib.sha256(text).hexdigest()[:16] == "97194bc7b311c0b1"


def test_an_image_depends_on_seed_split_and_place_not_on_the_count(root, tmp_path):
    write_shapes(tmp_path / "more", num_train=2, num_val=4, image_size=64)
    write_shapes(tmp_path / "other", **SMALL, seed=1)
    first, more, other = (
        {name: data for name, data in all_bytes(path).items() if "17/" in name}
        for path in (root, tmp_path / "more", tmp_path / "other")
    )
    common = first.keys() & more.keys()
    assert len(common) == 2 * (2 + 3) and all(first[name] == more[name] for name in common)
    pictures = [data for files in (first, other) for name, data in files.items()]
    assert len(set(pictures)) == len(pictures)


def test_a_finished_directory_is_left_alone(root, capsys):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    write_shapes(root, **SMALL)
    assert capsys.readouterr().out == ""
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_writing_prints_one_line_and_leaves_no_other_files(tmp_path, capsys):
    (tmp_path / "set").mkdir()  # an empty directory is as good as none
    write_shapes(tmp_path / "set", **SMALL)
    assert capsys.readouterr().out.splitlines() == [
        f"Writing the shapes dataset (6 + 3 images) to {tmp_path / 'set'}"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_train": 7}, "with num_train 6, not 7"),
        ({"seed": 4}, "with seed 0, not 4"),
        ({"image_size": 96}, "with image_size 64, not 96"),
    ],
)
def test_other_settings_are_refused_with_the_way_out(root, changed, message):
    with pytest.raises(UserError, match=f"{root}.*{message}: .*choose a new folder .*--coco_path"):
        write_shapes(root, **(SMALL | changed))


def test_a_directory_of_another_kind_is_refused(tmp_path):
    (tmp_path / "train2017").mkdir()
    with pytest.raises(
        UserError, match=r"is not a shapes dataset: to train on it, add --dataset_file coco"
    ):
        write_shapes(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["train2017"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/set .*--coco_path"):
        write_shapes(tmp_path / "file" / "set", **SMALL)


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    calls = iter(range(100))

    def interrupted(rng, image_size):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return draw_scene(rng, image_size)

    monkeypatch.setattr(split, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_shapes(tmp_path / "set", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_writers_at_the_same_time_agree_on_one_directory(tmp_path, root, monkeypatch):
    """All draw before any moves its directory into place; the losers use the winner's."""
    barrier = threading.Barrier(3, timeout=60)
    write_directory, failures = shapes._write_directory, []

    def write_and_wait(*arguments):
        write_directory(*arguments)
        barrier.wait()

    def write():
        try:
            write_shapes(tmp_path / "set", **SMALL)
        except Exception as error:
            failures.append(error)

    monkeypatch.setattr(shapes, "_write_directory", write_and_wait)
    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert all_bytes(tmp_path / "set") == all_bytes(root)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_train": 0}, "num_train must be 1 to 100000, got 0"),
        ({"num_val": 100_001}, "num_val must be 1 to 100000, got 100001"),
        ({"image_size": 32}, "image_size must be at least 64, got 32"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_is_written(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        write_shapes(tmp_path / "set", **(SMALL | wrong))
    assert list(tmp_path.iterdir()) == []


# ---- build


def namespace(coco_path, **more):
    return argparse.Namespace(dataset_file="shapes", coco_path=coco_path, masks=True, **more)


@pytest.mark.parametrize(("image_set", "length"), [("train", 6), ("val", 3)])
def test_build_reads_a_named_directory_through_the_coco_loader(root, image_set, length):
    args = namespace(str(root))
    before = dict(vars(args))
    dataset = shapes.build(image_set, args)
    assert vars(args) == before
    assert len(dataset) == length
    image, target = dataset[0]
    assert min(image.shape[-2:]) in (48, 56, 64)  # the default scales of 64 px
    assert target["masks"].shape == (len(target["labels"]), *image.shape[-2:])
    assert dataset.categories == dict(enumerate(THING_CLASSES, start=1))


def test_evaluation_sees_the_drawn_size_and_given_scales_win(root):
    assert shapes.build("val", namespace(str(root)))[0][0].shape == (3, 64, 64)
    assert shapes.build("val", namespace(str(root), scales=[80]))[0][0].shape == (3, 80, 80)


def test_build_writes_the_default_directory_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shapes, "DEFAULT_ROOT", tmp_path / "data" / "shapes")
    monkeypatch.setitem(write_shapes.__kwdefaults__, "num_train", 4)
    monkeypatch.setitem(write_shapes.__kwdefaults__, "num_val", 2)
    monkeypatch.setitem(write_shapes.__kwdefaults__, "image_size", 64)
    assert len(shapes.build("train", namespace(None))) == 4
    assert len(shapes.build("val", namespace(""))) == 2
    assert capsys.readouterr().out.count("Writing the shapes dataset") == 1


def test_build_refuses_a_directory_of_another_version_or_kind(tmp_path):
    (tmp_path / shapes.SETTINGS_FILE).write_text('{"format_version": 0}')
    with pytest.raises(UserError, match="with format_version 0, not 2"):
        shapes.build("train", namespace(str(tmp_path)))
    (tmp_path / shapes.SETTINGS_FILE).write_text("[not json")
    with pytest.raises(UserError, match="add --dataset_file coco"):
        shapes.build("train", namespace(str(tmp_path)))


def test_the_default_directory_is_next_to_main():
    assert Path(shapes.__file__).parents[2] / "data" / "shapes" == shapes.DEFAULT_ROOT
    assert shapes.DEFAULT_NUM_VAL == 200

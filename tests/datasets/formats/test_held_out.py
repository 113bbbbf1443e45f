"""Validation images held out of data without a split."""

import random
from collections import Counter

import pytest

from datasets.formats.held_out import NO_IMAGES, ImageSplit, hold_out
from util.errors import UserError


def tables(classes_of_image):
    """COCO tables: the classes of the objects of each image."""
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(len(classes_of_image))]
    pairs = [(i, one) for i, classes in enumerate(classes_of_image) for one in classes]
    annotations = [
        {"id": n, "image_id": i, "category_id": one, "bbox": [0, 0, 1, 1]}
        for n, (i, one) in enumerate(pairs)
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1}]}


def names(data):
    return {row["file_name"] for row in data["images"]}


def classes(data):
    return Counter(row["category_id"] for row in data["annotations"])


COMMON = [[1]] * 200


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5])
def test_every_image_is_in_one_part(fraction):
    data = tables(COMMON)
    train, val = hold_out(data, fraction, seed=0)
    assert names(train) | names(val) == names(data)
    assert names(train).isdisjoint(names(val))
    assert len(names(val)) == round(200 * fraction)
    assert len(train["annotations"]) + len(val["annotations"]) == 200
    assert {row["image_id"] for row in val["annotations"]} == {row["id"] for row in val["images"]}
    assert train["categories"] == val["categories"] == data["categories"]


@pytest.mark.parametrize("seed", range(20))
def test_rare_classes_reach_both_parts(seed):
    rare = [[1, 2], [1, 2], [3], [3], [1, 4, 5], [4, 5]]
    train, val = hold_out(tables(COMMON + rare), 0.05, seed)
    assert set(classes(train)) == set(classes(val)) == {1, 2, 3, 4, 5}


def test_the_only_image_of_a_class_is_for_training():
    for seed in range(20):
        train, val = hold_out(tables([[1, 2]] + [[1]] * 3), 0.5, seed)
        assert classes(train)[2] == 1 and classes(val)[2] == 0


def test_many_rare_classes_take_at_most_twice_the_share():
    _, val = hold_out(tables([[1 + n // 2] for n in range(100)]), 0.1, seed=0)
    assert len(val["images"]) == 20


def test_the_split_depends_on_the_seed_and_on_nothing_else():
    data = tables([*COMMON, [2], [2], []])
    expected = names(hold_out(data, 0.1, seed=3)[1])
    assert names(hold_out(data, 0.1, seed=4)[1]) != expected
    shuffled = {**data, "images": list(data["images"]), "annotations": list(data["annotations"])}
    random.Random(0).shuffle(shuffled["images"])
    random.Random(1).shuffle(shuffled["annotations"])
    assert names(hold_out(shuffled, 0.1, seed=3)[1]) == expected


def test_the_split_of_a_seed_does_not_change():
    """Checkpoints rely on it: another choice would score them on training images."""
    _, val = hold_out(tables([[1]] * 20), 0.2, seed=42)
    assert names(val) == {"4.jpg", "10.jpg", "12.jpg", "18.jpg"}


def test_images_without_objects_are_split_too():
    train, val = hold_out(tables([[]] * 10), 0.2, seed=0)
    assert (len(train["images"]), len(val["images"])) == (8, 2)


def test_all_images():
    data = tables(COMMON)
    train, val = hold_out(data, 1, seed=0)
    assert val == data and train["images"] == []


def test_one_image_is_left_for_training_and_one_for_validation():
    for fraction in (0.001, 0.999):
        train, val = hold_out(tables([[1], [2]]), fraction, seed=0)
        assert len(train["images"]) == len(val["images"]) == 1


def test_one_image_cannot_be_split():
    with pytest.raises(UserError, match="one image cannot be split"):
        hold_out(tables([[1]]), 0.1, seed=0)


def test_invalid_rows_are_left_to_the_checks():
    data = tables(COMMON)
    data["images"].append({"file_name": "no id.jpg"})
    data["annotations"].append({"id": 1000, "image_id": None, "category_id": [1]})
    train, _ = hold_out(data, 0.1, seed=0)
    assert train["images"][-1] == {"file_name": "no id.jpg"}


def grown(data, classes_of_image):
    """The tables, and images before and after theirs."""
    new = tables(classes_of_image)
    for row in new["images"]:
        row.update(id=row["id"] + 1000, file_name=f"{'a' if row['id'] % 2 else 'new'}/{row['id']}")
    for row in new["annotations"]:
        row.update(image_id=row["image_id"] + 1000, id=row["id"] + 10000)
    return {key: [*new[key], *data[key]] for key in data}


def split_of(train, val):
    return NO_IMAGES.with_images(names(train), names(val))


@pytest.mark.parametrize("seed", range(10))
def test_images_keep_their_split_when_the_data_grows(seed):
    data = tables(COMMON)
    earlier = split_of(*hold_out(data, 0.1, seed))
    more = grown(data, [[1]] * 38 + [[2]] * 2)
    train, val = hold_out(more, 0.1, seed, earlier)
    assert earlier.train < names(train) and earlier.val < names(val)
    assert len(val["images"]) == 24
    assert classes(train)[2] == classes(val)[2] == 1  # a rare class reaches both parts
    other_seed = hold_out(more, 0.2, seed + 1, earlier)
    assert earlier.train < names(other_seed[0]) and len(other_seed[1]["images"]) == 48


def test_data_that_grows_by_single_images_keeps_its_fraction():
    data = tables(COMMON)
    split = split_of(*hold_out(data, 0.1, 0))
    for count in range(1, 31):
        train, val = hold_out(grown(data, [[1]] * count), 0.1, 0, split)
        split = split.with_images(names(train), names(val))
    assert (len(split.train), len(split.val)) == (207, 23)
    assert split == ImageSplit.read(split.saved())


def test_deleted_images_are_kept_in_the_split():
    data = tables(COMMON)
    split = split_of(*hold_out(data, 0.1, 0))
    less = {**data, "images": [row for row in data["images"] if row["file_name"] in split.train]}
    with pytest.raises(
        UserError, match=r"all images have the names of training images .*--split_seed"
    ):
        hold_out(less, 0.1, 0, split)
    assert hold_out(less, 1, 0, split)[1]["images"] == less["images"]
    assert split.with_images(set(), split.train) == split


def test_names_of_a_split_may_have_a_prefix():
    data = tables(COMMON)
    train, val = hold_out(data, 0.1, 3)
    earlier = NO_IMAGES.with_images(*({f"in/{name}" for name in names(p)} for p in (train, val)))
    assert hold_out(data, 0.1, 4, earlier, "in/") == (train, val)
    for foreign in (None, [], {"train": 3, "val": None}):
        assert hold_out(data, 0.1, 3, ImageSplit.read(foreign)) == (train, val)


@pytest.mark.parametrize("seed", range(5))
def test_rows_with_the_same_file_stay_together(seed):
    data = tables([[1], [2], [1], [3], [1], [2]] * 4)
    for row in data["images"]:
        row["file_name"] = f"{row['id'] % 12}.jpg"
    train, val = hold_out(data, 0.25, seed)
    assert names(train).isdisjoint(names(val))
    assert len(val["images"]) == 2 * len(names(val)) == 6


def test_one_file_in_two_rows_cannot_be_split():
    data = tables([[1], [2]])
    data["images"][1]["file_name"] = data["images"][0]["file_name"]
    with pytest.raises(UserError, match="one image cannot be split"):
        hold_out(data, 0.5, seed=0)


def test_augmented_copies_of_an_image_stay_together():
    data = tables([[1], [2], [1]] * 20)
    for row in data["images"]:
        row["file_name"] = f"photo{row['id'] % 20}_jpg.rf.{row['id']:032x}.jpg"
    train, val = hold_out(data, 0.2, seed=0)
    sources = [{name.split(".rf.")[0] for name in names(part)} for part in (train, val)]
    assert sources[0].isdisjoint(sources[1])
    assert len(sources[1]) == 4 and len(val["images"]) == 12
    in_reverse = {**data, "images": data["images"][::-1]}
    assert names(hold_out(in_reverse, 0.2, seed=0)[1]) == names(val)


def test_copies_that_a_checkpoint_has_on_both_sides_stay_where_they_are():
    """As in runs of versions that did not know copies; a new copy is used for training."""
    data = tables([[1]] * 5)
    copies = [f"a.rf.{n}.jpg" for n in range(3)]
    for row, name in zip(data["images"], [*copies, "b.jpg", "c.jpg"], strict=True):
        row["file_name"] = name
    earlier = ImageSplit(frozenset([copies[0], "b.jpg"]), frozenset([copies[1]]))
    train, val = hold_out(data, 0.3, seed=0, earlier=earlier)
    assert names(train) >= {copies[0], copies[2], "b.jpg"}
    assert copies[1] in names(val)

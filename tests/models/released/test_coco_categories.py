"""COCO's categories."""

from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from models.released.coco_categories import (
    CATEGORY_NAMES,
    STUFF_NAMES,
    THING_NAMES,
    default_num_classes,
)


def test_things_match_torchvision():
    known = FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"]
    things = {i: name for i, name in enumerate(known) if i and name != "N/A"}
    assert things == THING_NAMES


def test_stuff_follows_the_things():
    assert len(STUFF_NAMES) == 53 and min(STUFF_NAMES) == 92 and max(STUFF_NAMES) == 200
    assert (STUFF_NAMES[149], STUFF_NAMES[187]) == ("road", "sky-other-merged")
    assert len(CATEGORY_NAMES["coco_panoptic"]) == 133


def test_the_least_number_of_classes_is_that_of_the_released_models():
    counts = [default_num_classes(name, 7) for name in ("coco", "coco_panoptic", "shapes")]
    assert counts == [91, 250, 8]
    assert default_num_classes("coco", 91) == 92

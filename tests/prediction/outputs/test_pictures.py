"""Pictures and crops."""

import numpy as np
import pytest
from PIL import Image

from prediction.outputs.pictures import Crops, Pictures, draw
from tests.datasets.photo_cases import red_share
from tests.prediction.outputs.output_cases import IMAGE, boxes_of, found, item


def test_a_picture_has_the_name_and_the_sub_folder_of_its_image(tmp_path):
    pictures = Pictures(tmp_path)
    for name in ("a.jpg", "sub/b.tif", "c.gif"):
        pictures.add(item(name), IMAGE, found())
    pictures.close()
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*"))
    assert files == ["pictures/a.jpg", "pictures/c.gif.png", "pictures/sub/b.tif"]


def test_the_best_detection_is_on_top():
    best, other = boxes_of((5, 5, 20, 20), name="a"), boxes_of((5, 5, 20, 20), name="b")
    both = boxes_of((5, 5, 20, 20), (5, 5, 20, 20))
    both.names[:] = ["a", "b"]
    edge = (5 * 8 + 1, 15 * 8)  # on the left side of the box, below the labels; enlarged by 8
    colors = [draw(IMAGE, prediction).getpixel(edge) for prediction in (best, other, both)]
    assert colors[0] == colors[2] != colors[1]


def test_each_box_has_the_color_of_its_class():
    left, right = boxes_of((5, 5, 20, 20), name="a"), boxes_of((25, 5, 40, 20), name="b")
    both = boxes_of((5, 5, 20, 20), (25, 5, 40, 20))
    both.names[:] = ["a", "b"]
    for single, edge in ((left, (5 * 8 + 1, 15 * 8)), (right, (25 * 8 + 1, 15 * 8))):
        assert draw(IMAGE, both).getpixel(edge) == draw(IMAGE, single).getpixel(edge)


@pytest.mark.parametrize("options", [{}, {"masks": True}, {"panoptic": True}])
def test_every_kind_of_model_is_drawn(options):
    plain = draw(IMAGE, boxes_of())
    assert plain.size[0] >= 384 and plain.size[0] % IMAGE.width == 0
    assert (np.asarray(draw(IMAGE, found(**options))) != np.asarray(plain)).any()
    assert IMAGE.size == (48, 32)  # not changed


def test_crops_by_class(tmp_path):
    crops = Crops(tmp_path)
    crops.add(item("sub/a.png"), IMAGE, found())
    crops.add(item("b.jpg"), IMAGE, boxes_of((1, 2, 3, 4), (1, 2, 9, 9), name="red/patch"))
    crops.close()
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*"))
    assert files == [
        "crops/other/sub/a_1.png",
        "crops/red_patch/b_1.jpg",
        "crops/red_patch/b_2.jpg",
        "crops/red_patch/sub/a_1.png",
    ]
    with Image.open(tmp_path / "crops/red_patch/sub/a_1.png") as crop:
        assert red_share(crop, [0, 0, *crop.size]) > 0.8


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((-5, -5, 100, 100), (48, 32)),
        ((10, 10, 10, 10), (1, 1)),
        ((60, 50, 70, 60), (1, 1)),
        ((-9, -9, -5, -5), (1, 1)),
        ((2.4, 3.6, 5.4, 6.6), (3, 4)),
    ],
)
def test_a_crop_has_at_least_a_pixel_of_the_image(box, size, tmp_path):
    Crops(tmp_path).add(item("a.png"), IMAGE, boxes_of(box))
    with Image.open(tmp_path / "crops/dot/a_1.png") as crop:
        assert crop.size == size

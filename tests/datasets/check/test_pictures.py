"""Sample images of the dataset check show images as training reads them."""

import pytest
from PIL import Image

from datasets.annotations.coco_file import UPRIGHT
from datasets.check.pictures import _panel, save_pictures
from tests.datasets.check_cases import check, row
from tests.datasets.photo_cases import PATCH_XYWH, UPRIGHT_WH, red_share, write_photo


@pytest.mark.parametrize(("orientation", "mark"), [(6, {}), (3, {UPRIGHT: True})])
def test_photos_stored_sideways_are_drawn_upright(tmp_path, orientation, mark):
    write_photo(tmp_path / "train" / "1.jpg", orientation)
    size = {"width": UPRIGHT_WH[0], "height": UPRIGHT_WH[1], **mark}
    data = {
        "images": [{"id": 1, "file_name": "1.jpg", **size}],
        "annotations": [row(1, 1, PATCH_XYWH)],
        "categories": [{"id": 1, "name": "patch"}],
    }
    split = check(tmp_path, data, num_pictures=1)
    assert [(one.kind, one.severity) for one in split.stats.findings] == [
        ("exif_rotated", "warning")
    ]
    panel = _panel(split.samples[0])
    assert panel.image.size == UPRIGHT_WH
    assert red_share(panel.image, panel.boxes_xyxy[0]) > 0.95
    assert save_pictures(split.samples, tmp_path / "sheet.png") == 1
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > UPRIGHT_WH[0]

"""Items and predictions for tests of the outputs."""

import numpy as np

from prediction.detector import Detector
from prediction.inputs.reading import Item
from prediction.result import Prediction
from tests.datasets.photo_cases import upright_image
from tests.prediction.red_finder import red_finder

IMAGE = upright_image()


def item(name="a.jpg", number=1, **changes):
    return Item(**{"file": f"photos/{name}", "name": name, "image_id": number, **changes})


def found(threshold=0.1, **options):
    """The prediction of the stand-in for the image."""
    return Detector(red_finder(**options), "cpu").predict(IMAGE, threshold)


def boxes_of(*boxes_xyxy, name="dot"):
    """A prediction with these boxes, all of one class."""
    count = len(boxes_xyxy)
    return Prediction(
        size_hw=(IMAGE.height, IMAGE.width),
        boxes_xyxy=np.array(boxes_xyxy, dtype=np.float32).reshape(count, 4),
        scores=np.full(count, 0.9, dtype=np.float32),
        category_ids=np.ones(count, dtype=np.int64),
        names=[name] * count,
        queries=np.arange(count),
    )

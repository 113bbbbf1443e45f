"""Random ground truth and detections for the tests of matching and errors."""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO


def coco_of(annotations, num_images=1, categories=(1, 2, 5)):
    """A COCO index of annotations with ``image_id``, ``category_id`` and ``bbox``."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(1, num_images + 1)],
        "categories": [{"id": i, "name": f"class {i}"} for i in categories],
        "annotations": [
            {"id": number, "iscrowd": 0, "area": a["bbox"][2] * a["bbox"][3], **a}
            for number, a in enumerate(annotations, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def random_case(seed, num_images=6):
    """Ground truth with some crowds, and detections around its objects and elsewhere."""
    generator = np.random.default_rng(seed)
    annotations, detections = [], []
    for image_id in range(1, num_images + 1):
        for _ in range(generator.integers(0, 6)):
            box = np.concatenate([generator.uniform(0, 60, 2), generator.uniform(10, 40, 2)])
            category_id = int(generator.choice([1, 2, 5]))
            crowd = int(generator.random() < 0.15)
            base = {"image_id": image_id, "category_id": category_id}
            annotations.append({**base, "bbox": box.tolist(), "iscrowd": crowd})
            for _ in range(generator.integers(0, 4)):
                moved = box + generator.normal(0, 4, 4)
                moved[2:] = moved[2:].clip(1)
                if generator.random() < 0.2:
                    base["category_id"] = int(generator.choice([1, 2, 5]))
                score = float(generator.random())
                detections.append({**base, "bbox": moved.tolist(), "score": score})
    return coco_of(annotations, num_images), detections

"""Warn about collapsed models: detections hardly differ between images although the objects do."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as rle_tools
from pycocotools.coco import COCO

from datasets.evaluation.coco_scoring import Annotation

_FEWEST_IMAGES = 5
_IMAGES_COMPARED = 200
_MOST_BOXES = 10  # boxes per image with the highest scores
# Maximum ratio of the distances (`_distance_between_images`) of detections and objects. On the
# shapes dataset it was 0.13 for a model that predicted the mean box, and 0.30 to 0.92 for others.
_COLLAPSED = 0.2
_MIN_OBJECT_DISTANCE = 0.2  # below this, objects are in the same place in all images

_ADVICE = {
    True: (
        "this is normal in the first epochs. If it persists, start from a trained model "
        "(--finetune), or try lower --bbox_loss_coef and --giou_loss_coef or a different --lr"
    ),
    False: "AP is not meaningful yet. Train longer, or start from a trained model (--finetune)",
}


def explain_collapse(
    coco_gt: COCO, detections: Sequence[Annotation], training: bool = False
) -> str | None:
    """Warn if the best boxes are nearly equal in all images while the objects are not.

    Args:
        coco_gt: ground truth, with image sizes.
        detections: COCO result entries. If any of them has a category of ``coco_gt``, entries of
            other categories are ignored.
        training: whether the model is being trained.

    Returns:
        a sentence; None if the detections differ between images, or there are too few images.
    """
    objects = _by_image(coco_gt, [a for a in coco_gt.anns.values() if not a.get("iscrowd")])
    # Ignore the stuff of panoptic data, unless no detection has a known category (untrained model).
    known = [entry for entry in detections if entry["category_id"] in coco_gt.cats]
    found = _by_image(coco_gt, sorted(known or detections, key=lambda entry: -entry["score"]))
    image_ids = [i for i in sorted(objects) if i in found][:_IMAGES_COMPARED]
    if len(image_ids) < _FEWEST_IMAGES:
        return None
    per_image = int(np.median([len(objects[i]) for i in image_ids]))
    per_image = min(max(per_image, 1), _MOST_BOXES)
    object_distance = _distance_between_images([objects[i] for i in image_ids])
    detection_distance = _distance_between_images([found[i] for i in image_ids], per_image)
    if object_distance < _MIN_OBJECT_DISTANCE or detection_distance > _COLLAPSED * object_distance:
        return None
    boxes = "box hardly differs" if per_image == 1 else f"{per_image} boxes hardly differ"
    return (
        f"The best {boxes} between images (mean IoU {1 - detection_distance:.2f} across images; "
        f"objects: {1 - object_distance:.2f}): the model does not use the image yet; "
        f"{_ADVICE[training]}"
    )


def _by_image(coco_gt: COCO, entries: Sequence[Annotation]) -> dict[int, np.ndarray]:
    """Boxes (N, 4) of each image, xywh relative to its size, in the order of the entries."""
    boxes = defaultdict(list)
    for entry in entries:
        boxes[entry["image_id"]].append(entry["bbox"])
    relative = {}
    for image_id, boxes_xywh in boxes.items():
        image = coco_gt.imgs.get(image_id, {})
        if image.get("width") and image.get("height"):
            size = np.array([image["width"], image["height"]] * 2, dtype=np.float64)
            relative[image_id] = np.array(boxes_xywh, dtype=np.float64) / size
    return relative


def _distance_between_images(boxes: list[np.ndarray], best: int | None = None) -> float:
    """Mean of 1 - IoU between a box of an image and the most similar box of another image.

    Each image is compared with an image half the list away, since neighbors may be frames of a
    video.

    Args:
        boxes: boxes (N, 4) xywh of each image, N at least 1.
        best: number of boxes per image to compare, from the first on, with twice as many boxes of
            the other image, since their order may differ. None: all boxes.
    """
    half = len(boxes) // 2
    others = boxes[half:] + boxes[:half]
    distances = []
    for own, other in zip(boxes, others, strict=True):
        own, other = own[:best], other[: best and 2 * best]
        ious = np.asarray(rle_tools.iou(own, other, [0] * len(other)))  # [own, other]
        ious = np.nan_to_num(ious)  # two boxes without area
        distances.append(1 - ious.max(axis=1).mean())
    return float(np.mean(distances))

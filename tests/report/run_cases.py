"""Output folders of runs, made up, for the tests of the report."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from datasets.coco_eval import CocoEvaluator
from datasets.evaluation.result_formats import serializable_eval, write_detections
from tests.datasets.evaluation.detection_cases import coco_of
from util.files.checkpoint_file import save_on_master


def write_data(root: Path, names: list[str], num_images: int, seed: int = 0, side: int = 96):
    """Write validation data in COCO's layout, with the same images for training.

    Returns:
        the COCO index of the annotations.
    """
    generator = np.random.default_rng(seed)
    annotations = []
    for image_id in range(1, num_images + 1):
        for _ in range(generator.integers(0, 6)):
            box = np.concatenate([generator.uniform(0, side * 0.6, 2), generator.uniform(8, 38, 2)])
            category_id = int(generator.integers(1, len(names) + 1))
            box = box.round(1).tolist()
            annotations.append({"image_id": image_id, "category_id": category_id, "bbox": box})
    coco = coco_of(annotations, num_images, range(1, len(names) + 1))
    for category, name in zip(coco.dataset["categories"], names, strict=True):
        category["name"] = name
    pixels = generator.integers(0, 255, (side, side, 3), dtype=np.uint8)
    for split in ("train2017", "val2017"):
        (root / split).mkdir(parents=True)
        for row in coco.dataset["images"]:
            row.update(width=side, height=side)
            if split == "val2017" and row["id"] > 1:
                (root / split / row["file_name"]).hardlink_to(root / split / "1.png")
            elif split == "val2017":
                Image.fromarray(pixels).save(root / split / row["file_name"])
    (root / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        path = root / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(coco.dataset))
    return coco


def some_detections(coco, per_object: float = 1.3, seed: int = 0) -> list[dict]:
    """Detections around the objects, some of another class, and elsewhere."""
    generator = np.random.default_rng(seed)
    detections = []
    for annotation in coco.anns.values():
        for _ in range(generator.poisson(per_object)):
            x, y, width, height = annotation["bbox"]
            moved = generator.normal(0, 0.1, 4)
            category_id = annotation["category_id"]
            if generator.random() < 0.2:
                category_id = int(generator.choice(list(coco.cats)))
            box = [
                x + width * moved[0],
                y + height * moved[1],
                width * (1 + abs(moved[2])),
                height * (1 + abs(moved[3])),
            ]
            detections.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": category_id,
                    "bbox": [float(value) for value in box],
                    "score": float(generator.beta(3, 2)),
                }
            )
    return detections


def log_of(num_epochs: int) -> list[dict]:
    """Entries of a log, with falling losses."""
    losses = ("loss", "loss_ce", "loss_bbox", "loss_giou", "class_error")
    return [
        {
            **{f"train_{name}": 4 / (1 + epoch) for name in losses},
            **{f"test_{name}": 5 / (1 + epoch) for name in losses},
            "train_lr": 1e-4,
            "test_coco_eval_bbox": [0.1 + 0.8 * epoch / num_epochs] * 11 + [-1],
            "epoch": epoch,
            "n_parameters": 1000,
        }
        for epoch in range(num_epochs)
    ]


def write_run(folder: Path, data: Path, coco, detections, num_epochs: int = 3) -> None:
    """Write log, checkpoint without weights, evaluation and detections of a run."""
    (folder / "eval").mkdir(parents=True)
    lines = [json.dumps(entry) + "\n" for entry in log_of(num_epochs)]
    (folder / "log.txt").write_text("".join(lines))
    names = {i: category["name"] for i, category in coco.cats.items()}
    flags = {"dataset_file": "coco", "coco_path": str(data), "masks": False, "epochs": num_epochs}
    versions = {"python": "3.13", "commit": "unknown"}
    content = {"model": {}, "args": flags, "categories": names, "versions": versions}
    torch.save(content, folder / "checkpoint.pth")
    evaluator = CocoEvaluator(coco, ["bbox"])
    by_image = {image_id: [] for image_id in coco.imgs}
    for entry in detections:
        by_image[entry["image_id"]].append(entry)
    evaluator.update({i: _prediction(entries) for i, entries in by_image.items()})
    evaluator.synchronize_between_processes()
    evaluator.accumulate()
    evaluation = serializable_eval(evaluator.coco_eval["bbox"].eval)
    save_on_master(evaluation, folder / "eval" / "latest.pth")
    write_detections(detections, folder / "eval" / "detections.json")


def _prediction(entries: list[dict]) -> dict:
    boxes = torch.tensor([entry["bbox"] for entry in entries]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = torch.tensor([entry["score"] for entry in entries])
    labels = torch.tensor([entry["category_id"] for entry in entries])
    return {"boxes": boxes, "scores": scores, "labels": labels}

"""Small datasets in Pascal VOC, YOLO and COCO format, made by a test."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from datasets.formats.reading import ReadOptions, read_split
from datasets.formats.recognize import recognize

WIDTH, HEIGHT = 40, 30
CLASSES = ("cat", "dog", "emu")


def write_image(path: Path, size_wh=(WIDTH, HEIGHT), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size_wh, "gray").save(path, **options)
    return path


def write_text(path: Path, text: str, encoding="utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def voc_object(name="cat", box=(3, 5, 12, 20), difficult: object = 0) -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    inside = "".join(f"<{corner}>{value}</{corner}>" for corner, value in corners)
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{inside}</bndbox></object>"
    )


def voc_xml(*objects: str, filename="", size_wh: tuple[object, object] = (WIDTH, HEIGHT)) -> str:
    width, height = size_wh
    return (
        f"<annotation><filename>{filename}</filename>"
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        f"{''.join(objects)}</annotation>"
    )


def write_voc(root: Path, splits: dict[str, Sequence[str]] | None = None) -> Path:
    """VOC folder: images of the splits, each with a cat, and a dog in the training images."""
    splits = {"train": ["a", "b"], "val": ["c"]} if splits is None else splits
    for split, stems in splits.items():
        for stem in stems:
            write_image(root / "JPEGImages" / f"{stem}.jpg")
            dog = [voc_object("dog", (1, 1, 40, 30))] if split == "train" else []
            xml = voc_xml(voc_object(), *dog, filename=f"{stem}.jpg")
            write_text(root / "Annotations" / f"{stem}.xml", xml)
        write_text(root / "ImageSets" / "Main" / f"{split}.txt", "\n".join(stems) + "\n")
    return root


def write_yolo(root: Path, splits: dict[str, Sequence[str]] | None = None) -> Path:
    """YOLO folder: ``images/SPLIT``, ``labels/SPLIT`` and ``data.yaml``."""
    splits = {"train": ["a", "b"], "val": ["c"]} if splits is None else splits
    for split, stems in splits.items():
        for stem in stems:
            write_image(root / "images" / split / f"{stem}.png")
            write_text(root / "labels" / split / f"{stem}.txt", "1 0.5 0.5 0.25 0.5\n")
    keys = "".join(f"{split}: images/{split}\n" for split in splits)
    write_text(root / "data.yaml", f"{keys}nc: 3\nnames: [{', '.join(CLASSES)}]\n")
    return root


def coco_tables(stems: Sequence[str] = ("a", "b")) -> dict[str, Any]:
    """COCO tables: an image for each name, with a cat each and a dog in the first."""
    images = [
        {"id": i, "file_name": f"{stem}.png", "width": WIDTH, "height": HEIGHT}
        for i, stem in enumerate(stems, start=1)
    ]
    pairs = [(row["id"], 1) for row in images] + [(1, 2)]
    annotations = [
        {"id": n, "image_id": i, "category_id": c, "bbox": [2, 4, 10, 16], "iscrowd": 0}
        for n, (i, c) in enumerate(pairs, start=1)
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES[:2], start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(folder: Path, ann_file: Path, stems: Sequence[str] = ("a", "b")) -> Path:
    """Images in a folder, and their annotation file."""
    for stem in stems:
        write_image(folder / f"{stem}.png")
    return write_text(ann_file, json.dumps(coco_tables(stems)))


def read(path: Path, split="train", **options: Any):
    """Tables of a split of the data at a path."""
    return read_split(recognize(path), split, ReadOptions(**options))


def boxes_by_image(data: dict[str, Any]) -> dict[str, list[tuple[str, list[float]]]]:
    """Class name and box of the objects of each image, by file name."""
    files = {row["id"]: row["file_name"] for row in data["images"]}
    names = {row["id"]: row["name"] for row in data["categories"]}
    found: dict[str, list[tuple[str, list[float]]]] = {name: [] for name in files.values()}
    for row in data["annotations"]:
        found[files[row["image_id"]]].append((names[row["category_id"]], row["bbox"]))
    return found

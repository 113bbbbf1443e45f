"""A COCO directory made here, from files to targets."""

import json
import pickle
import random
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

from datasets import annotated_category_ids, build_dataset, get_coco_api_from_dataset
from datasets.coco import (
    CocoDetection,
    build,
    build_transforms,
    make_coco_transforms,
)
from datasets.loading.byte_images import IMAGENET
from util.errors import UserError
from util.misc import collate_fn

WIDTH, HEIGHT = 80, 60


def annotation(number: int, image_id: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 3,
        "bbox": [10.0, 20.0, 30.0, 15.0],
        "segmentation": [[10, 20, 40, 20, 40, 35, 10, 35]],
        "area": 450.0,
        "iscrowd": 0,
        **fields,
    }


def write_coco(root: Path) -> Path:
    """Two splits of three images: one with all kinds of objects, one gray and without objects."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        folder = root / f"{split}2017"
        folder.mkdir(parents=True)
        images = []
        for image_id in (30, 10, 20):
            shape = (HEIGHT, WIDTH) if image_id == 20 else (HEIGHT, WIDTH, 3)
            name = f"{image_id}.png"
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
            images.append({"id": image_id, "file_name": name, "width": WIDTH, "height": HEIGHT})
        annotations = [
            annotation(1, 10),
            annotation(2, 10, iscrowd=1),
            annotation(3, 10, bbox=[5.0, 5.0, 0.0, 9.0]),
            annotation(4, 10, bbox=[-10.0, 50.0, 30.0, 30.0], category_id=7),
            annotation(5, 10, bbox=[90.0, 5.0, 10.0, 10.0]),
            annotation(6, 30),
        ]
        categories = [{"id": 3, "name": "cat"}, {"id": 7}]
        data = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(data))
    return root


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("coco"))


def flags(**given: Any) -> Namespace:
    return Namespace(**{"dataset_file": "coco", "coco_path": None, "masks": False} | given)


def val_split(
    coco: Path, transforms: Any = None, masks: bool = False, **options: Any
) -> CocoDetection:
    ann_file = coco / "annotations" / "instances_val2017.json"
    return CocoDetection(coco / "val2017", ann_file, transforms, masks, **options)


def edit_val(coco: Path, change: Any) -> None:
    path = coco / "annotations" / "instances_val2017.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_targets_hold_what_is_left_of_the_annotations(coco):
    dataset = val_split(coco)
    assert dataset.ids == [10, 20, 30]
    image, target = dataset[0]
    assert image.size == (WIDTH, HEIGHT)
    assert target["boxes"].tolist() == [[10, 20, 40, 35], [0, 50, 20, 60]]
    assert target["labels"].tolist() == [3, 7]
    assert target["area"].tolist() == [450, 450]
    assert target["iscrowd"].tolist() == [0, 0]
    assert target["image_id"].tolist() == [10]
    assert target["size"].tolist() == target["orig_size"].tolist() == [HEIGHT, WIDTH]
    assert "masks" not in target
    assert "keypoints" not in target


def test_ground_truth_of_the_evaluation_is_as_in_the_file(coco):
    in_file = json.loads((coco / "annotations" / "instances_val2017.json").read_text())
    assert val_split(coco).coco.dataset == in_file


@pytest.mark.parametrize("masks", [False, True])
def test_image_without_objects(coco, masks):
    image, target = val_split(coco, make_coco_transforms("val", [40]), masks)[1]
    assert image.shape == (3, 40, 53)
    assert (image[0] * 0.229 + 0.485).allclose(image[2] * 0.225 + 0.406, atol=1e-6)  # grey
    assert target["boxes"].shape == (0, 4)
    assert [target[field].shape for field in ("labels", "area", "iscrowd")] == [(0,)] * 3
    assert target["labels"].dtype == torch.int64
    if masks:
        assert target["masks"].shape == (0, 40, 53)


def test_segmentations_of_another_image_are_named(tmp_path):
    coco = write_coco(tmp_path)

    def turn(data: dict[str, Any]) -> None:
        image = data["images"][0]
        image["width"], image["height"] = image["height"], image["width"]
        size = [image["height"], image["width"]]
        for annotation in data["annotations"]:
            if annotation["image_id"] == image["id"]:
                annotation["segmentation"] = {"size": size, "counts": [size[0] * size[1]]}

    edit_val(coco, turn)
    dataset = val_split(coco, masks=True, skip_checks=True)
    with pytest.raises(UserError, match=r"^image id \d+ \(.*\): the RLE has size .*, but "):
        for index in range(len(dataset)):
            dataset[index]


def test_images_out_of_the_folder_are_read_and_reported_once(tmp_path, caplog):
    coco = write_coco(tmp_path)

    def move(data: dict[str, Any]) -> None:
        for image in data["images"]:
            image["file_name"] = f"../val2017/../val2017/{image['file_name']}"
        data["images"][0]["file_name"] = f"../{moved.name}"

    moved = coco / "elsewhere.jpg"
    Image.new("RGB", (WIDTH, HEIGHT)).save(moved)
    edit_val(coco, move)
    dataset = val_split(coco)
    assert len([dataset[index] for index in range(len(dataset))]) == 3
    assert caplog.text.count("1 image has a file_name that points outside") == 1
    assert "image id 30 (file_name '../elsewhere.jpg')" in caplog.text


def test_index_of_pycocotools_is_made_where_it_is_used(coco):
    dataset = val_split(coco)
    dataset[0], dataset.file_names, dataset.annotated_category_ids()
    assert "coco" not in vars(dataset)
    assert dataset.coco is dataset.coco and "coco" in vars(dataset)
    assert dataset.coco.getAnnIds(imgIds=[10]) == [1, 2, 3, 4, 5]
    copied = pickle.loads(pickle.dumps(dataset))
    assert "coco" not in vars(copied)
    assert copied[0][1]["boxes"].equal(dataset[0][1]["boxes"])


def test_file_names_and_annotated_classes(coco):
    dataset = val_split(coco)
    assert dataset.file_names == ["30.png", "10.png", "20.png"]
    assert (
        dataset.annotated_category_ids() == annotated_category_ids(Subset(dataset, [0])) == {3, 7}
    )


def test_categories(coco):
    dataset = val_split(coco)
    assert dataset.categories == {3: "cat", 7: "7"}


def test_log_lines_are_those_of_pycocotools(coco, capsys):
    val_split(coco)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "loading annotations into memory..."
    assert lines[1].startswith("Done (t=")
    assert lines[2:] == ["creating index...", "index created!"]


def test_missing_area_and_crowd_are_filled_in(tmp_path):
    root = write_coco(tmp_path)

    def forget(data: dict[str, Any]) -> None:
        for one in data["annotations"]:
            one.pop("area")
            one.pop("iscrowd")

    edit_val(root, forget)
    dataset = val_split(root)
    assert dataset.coco.anns[1]["area"] == 450
    assert dataset.coco.anns[2]["iscrowd"] == 0
    assert dataset[0][1]["area"].tolist() == [450, 450, 900]


@pytest.mark.parametrize("masks", [False, True])
def test_image_sizes_may_be_whole_floats(tmp_path, masks):
    root = write_coco(tmp_path)

    def write_floats(data: dict[str, Any]) -> None:
        for image, width in zip(data["images"], (99.0, 80.0, 80.0), strict=True):
            image.update(width=width, height=60.0)

    edit_val(root, write_floats)
    dataset = val_split(root, masks=masks)
    assert dataset.sizes_wh.tolist() == [[80, 60], [80, 60], [99, 60]]
    assert all(type(row["height"]) is int for row in dataset.coco.imgs.values())
    dataset[0]
    with pytest.raises(UserError, match=r"is 60 x 80 pixels .*, but 60 x 99 in"):
        dataset[2]


def test_masks_fit_their_boxes(coco):
    _, target = val_split(coco, masks=True)[2]
    assert target["masks"].shape == (1, HEIGHT, WIDTH)
    assert target["masks"][0, 20:35, 10:40].all()
    assert target["masks"].sum() == 450


def test_broken_image_is_named_with_its_image_id(tmp_path):
    root = write_coco(tmp_path)
    (root / "val2017" / "20.png").write_bytes(b"nothing")
    dataset = val_split(root)
    with pytest.raises(UserError, match=r"image id 20: .*20\.png cannot be read"):
        dataset[1]


def test_mistakes_in_the_file_end_in_one_user_error(tmp_path):
    root = write_coco(tmp_path)
    edit_val(root, lambda data: data["annotations"][0].update(category_id="cat"))
    with pytest.raises(UserError, match="annotation id 1 of image id 10"):
        build_dataset("val", flags(coco_path=str(root)))


def test_build_reads_the_default_layout(coco):
    dataset = build_dataset("val", flags(coco_path=str(coco)))
    image, target = dataset[2]
    assert image.shape == (3, 800, 1066)
    assert target["size"].tolist() == [800, 1066]
    assert target["boxes"].tolist() == [pytest.approx([25 / 80, 27.5 / 60, 30 / 80, 15 / 60])]
    random.seed(0)
    torch.manual_seed(0)
    image, _ = build("train", flags(coco_path=str(coco), scales=[32, 64], max_size=70))[2]
    assert min(image.shape[1:]) in (32, 64) or max(image.shape[1:]) <= 70


def test_build_reads_any_layout(coco, tmp_path):
    (tmp_path / "pictures").symlink_to(coco / "val2017")
    (tmp_path / "labels.json").symlink_to(coco / "annotations" / "instances_val2017.json")
    args = flags(val_images=str(tmp_path / "pictures"), val_ann=str(tmp_path / "labels.json"))
    assert build("val", args).ids == [10, 20, 30]
    with pytest.raises(UserError, match="--train_images and --train_ann"):
        build("train", args)
    mixed = flags(coco_path=str(coco), val_ann=str(tmp_path / "labels.json"))
    assert build("val", mixed).ids == [10, 20, 30]


def test_build_passes_split_and_class_count_to_the_checks(tmp_path):
    root = write_coco(tmp_path)
    with pytest.raises(UserError, match="--num_classes 7"):
        build("train", flags(coco_path=str(root), num_classes=7))
    edit_val(root, lambda data: data.update(annotations=[]))
    assert len(build("val", flags(coco_path=str(root)))) == 3
    val_as_train = flags(
        train_images=str(root / "val2017"),
        train_ann=str(root / "annotations" / "instances_val2017.json"),
    )
    with pytest.raises(UserError, match="no annotations"):
        build("train", val_as_train)


@pytest.mark.parametrize(
    ("path", "message"),
    [("gone", "--coco_path .*gone does not exist"), (None, "give --val_images and --val_ann, or")],
)
def test_missing_data_is_named(tmp_path, path, message):
    with pytest.raises(UserError, match=message):
        build_dataset("val", flags(coco_path=path and str(tmp_path / path)))


def test_unknown_dataset_lists_the_choices():
    with pytest.raises(ValueError, match="coco, coco_panoptic, voc, yolo, shapes"):
        build_dataset("train", flags(dataset_file="zzz"))


def test_index_is_found_through_subsets(coco):
    dataset = val_split(coco)
    assert get_coco_api_from_dataset(Subset(Subset(dataset, [0, 1]), [1])) is dataset.coco
    assert get_coco_api_from_dataset([1, 2]) is None


def test_loader_workers_hand_the_error_on(tmp_path):
    root = write_coco(tmp_path)
    (root / "val2017" / "10.png").write_bytes(b"nothing")
    loader = DataLoader(val_split(root), 1, num_workers=1, collate_fn=collate_fn)
    with pytest.raises(UserError) as caught:
        next(iter(loader))
    assert caught.value.one_line().startswith("image id 10: image file ")


def test_loader_pads_a_batch(coco):
    dataset = val_split(coco, make_coco_transforms("val", [30], 35))
    samples, targets = next(iter(DataLoader(dataset, 3, collate_fn=collate_fn)))
    assert samples.tensors.shape == (3, 3, 26, 34)
    assert [int(target["image_id"]) for target in targets] == [10, 20, 30]


def test_default_transforms_are_the_published_ones():
    train = make_coco_transforms("train")
    _, select, *_ = train.transforms
    published = list(range(480, 801, 32))
    assert select.p == 0.5 and select.transforms1.sizes == published
    before, crop, after = select.transforms2.transforms
    assert (before.sizes, before.max_size) == ([400, 500, 600], None)
    assert (crop.min_size, crop.max_size) == (384, 600)
    assert (after.sizes, after.max_size) == (published, 1333)
    assert make_coco_transforms("val").transforms[0].sizes == [800]


def test_crops_scale_with_the_scales():
    _, select, *_ = make_coco_transforms("train", [80, 160], 200).transforms
    before, crop, after = select.transforms2.transforms
    assert before.sizes == [80, 100, 120]
    assert (crop.min_size, crop.max_size) == (77, 120)
    assert (after.sizes, after.max_size) == ([80, 160], 200)
    assert make_coco_transforms("val", [80, 160], 200).transforms[0].sizes == [160]


@pytest.mark.parametrize(
    ("given", "least", "most"),
    [({"crop_prob": 0}, 0, 0), ({}, 5, 15), ({"crop_prob": 1}, 18, 20)],
    ids=["never", "as published", "always"],
)
def test_so_many_training_images_are_cropped(coco, given, least, most):
    random.seed(0)
    dataset = build("train", flags(coco_path=str(coco), scales=[HEIGHT], **given))
    cropped = [dataset[0][0].shape != (3, HEIGHT, WIDTH) for _ in range(20)]
    assert least <= sum(cropped) <= most


@pytest.mark.parametrize(
    ("given", "least", "most"), [({"flip_prob": 0}, 0, 0), ({}, 5, 15), ({"flip_prob": 1}, 20, 20)]
)
def test_so_many_training_images_are_mirrored(coco, given, least, most):
    random.seed(0)
    options = {"coco_path": str(coco), "scales": [HEIGHT], "crop_prob": 0} | given
    dataset = build("train", flags(**options))
    upright = dataset.untransformed(0)[1]["boxes"]
    left = float((upright[0, 0] + upright[0, 2]) / 2 / WIDTH)
    centers = [float(dataset[0][1]["boxes"][0, 0]) for _ in range(20)]
    assert abs(left - 0.5) > 0.1  # a mirrored box is elsewhere
    assert least <= sum(abs(center - left) > 0.1 for center in centers) <= most


@pytest.mark.parametrize("seed", range(8))
def test_boxes_follow_their_objects_through_the_training_transforms(seed):
    picture = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    picture[20:40, 10:50] = 255
    target = {
        "boxes": torch.tensor([[10.0, 20, 50, 40]]),
        "labels": torch.tensor([1]),
        "area": torch.tensor([800.0]),
        "iscrowd": torch.tensor([0]),
        "masks": torch.from_numpy(picture[None, ..., 0] // 255),
    }
    random.seed(seed)
    torch.manual_seed(seed)
    transform = make_coco_transforms("train", [96, 128])
    image, target = transform(Image.fromarray(picture), target)
    height, width = image.shape[-2:]
    bright = image.mean(0) > image.min() + (image.max() - image.min()) / 2
    for found in (bright, target["masks"][0]):
        rows, columns = torch.nonzero(found, as_tuple=True)
        measured = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        centre, extent = target["boxes"][0, :2], target["boxes"][0, 2:]
        expected = torch.cat([centre - extent / 2, centre + extent / 2])
        expected = expected * torch.tensor([width, height, width, height])
        torch.testing.assert_close(torch.tensor(measured).float(), expected, atol=3.5, rtol=0)


@pytest.mark.parametrize(("image_set", "crop_prob"), [("train", 0), ("train", 1), ("val", 0)])
def test_the_kernel_of_resizing_changes_the_pixels_by_rounding_only(image_set, crop_prob):
    rng = np.random.default_rng(0)
    size_hw = (203, 307)  # no simple ratio, for which both kernels give equal values
    pixels = rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    masks = torch.from_numpy(rng.integers(0, 2, (2, *size_hw), dtype=np.uint8))
    boxes = torch.tensor([[10.0, 20, 50, 40], [0, 0, 60, 60]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks}
    images, targets = [], []
    for kernel in ("pillow", "torch"):
        args = Namespace(scales=[96, 128], crop_prob=crop_prob, resize=kernel)
        random.seed(0)
        torch.manual_seed(0)
        image, changed = build_transforms(image_set, args)(Image.fromarray(pixels), target)
        images.append(image * torch.tensor(IMAGENET.std)[:, None, None] * 255)
        targets.append(changed)
    difference = (images[0] - images[1]).abs()
    assert 0 < difference.max() < 2.01
    assert (difference > 0.5).float().mean() < 0.02
    assert all(torch.equal(targets[0][name], targets[1][name]) for name in targets[0])


@pytest.mark.parametrize(("scales", "max_size"), [([], 1333), ([0, 480], 1333), ([480], 0)])
def test_impossible_scales_are_refused(scales, max_size):
    with pytest.raises(UserError, match="--scales"):
        make_coco_transforms("train", scales, max_size)


def test_unknown_image_set_is_refused():
    with pytest.raises(ValueError, match="test"):
        make_coco_transforms("test")

"""Which datasets return 8-bit images to the loaders, and that the batches do not change."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.coco import CocoDetection, make_coco_transforms
from datasets.loading.byte_images import ByteImages
from datasets.loading.loaders import SeededDataset, TrainLoader, build_val_loader
from datasets.loading.samples import ByteImage, Samples
from datasets.transforms import (
    Compose,
    RandomErasing,
    RandomResize,
    ToNormalizedTensor,
    ToTensor,
)
from util.nested_tensor import NestedTensor, collate_fn
from util.reproducibility.random_state import seeded

SCALES = {"scales": [40, 48, 56], "max_size": 90}


class Flipped(CocoDetection):
    """Works on the normalized tensor."""

    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        return image.flip(-1), target


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number, (width, height) in enumerate([(60, 40), (40, 60), (50, 50), (70, 40)], start=1):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        name = f"{number}.png"
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        box = {"bbox": [5, 6, 20, 10], "area": 200, "iscrowd": 0, "category_id": 1}
        annotations.append({"id": number, "image_id": number, **box})
    categories = [{"id": 1, "name": "thing"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "a.json").write_text(json.dumps(content))
    return folder, folder / "a.json"


def dataset_of(files, image_set="train", kind=CocoDetection):
    return kind(*files, make_coco_transforms(image_set, **SCALES), return_masks=False)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_batches_are_those_of_the_dataset(files, num_workers):
    dataset = dataset_of(files)
    loader = TrainLoader(dataset, 2, num_workers, pin_memory=False, seed=3)
    loader.start_at(5)
    samples = SeededDataset(dataset, seed=3)
    samples.set_epoch(5)
    batches = list(loader)
    assert len(batches) == 2
    for (images, targets), indices in zip(batches, loader.batches, strict=True):
        expected, expected_targets = collate_fn([samples[index] for index in indices])
        batch = images.to("cpu")
        assert type(images) is ByteImages and type(batch) is NestedTensor
        assert torch.equal(batch.tensors, expected.tensors)
        assert torch.equal(batch.mask, expected.mask)
        for target, other in zip(targets, expected_targets, strict=True):
            assert target.keys() == other.keys()
            assert all(torch.equal(target[name], other[name]) for name in other)


def test_validation_batches_are_those_of_the_dataset(files):
    dataset = dataset_of(files, "val")
    loader = build_val_loader(dataset, 4, 0, pin_memory=False)
    ((images, _),) = loader
    expected, _ = collate_fn([dataset[index] for index in range(4)])
    assert torch.equal(images.tensors, expected.tensors)
    assert loader.dataset is dataset


def test_the_dataset_itself_is_unchanged(files):
    dataset = dataset_of(files)
    image = Samples(dataset)[0].image
    assert type(image) is ByteImage and image.pixels.dtype == torch.uint8
    assert dataset[0][0].dtype == torch.float32


def test_other_datasets_and_transforms_keep_their_images(files):
    erased = dataset_of(files)
    erased._transforms = Compose([*erased._transforms.transforms, RandomErasing()])
    bare = CocoDetection(*files, None, return_masks=False)
    wrapped = torch.utils.data.Subset(dataset_of(files), [0, 1])
    for dataset in (erased, bare, wrapped, dataset_of(files, kind=Flipped)):
        with seeded(0):
            expected = dataset[0][0]
        with seeded(0):
            found = Samples(dataset)[0].image
        is_same = torch.equal if isinstance(found, torch.Tensor) else np.array_equal
        assert type(found) is type(expected) and is_same(found, expected)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_transforms_may_be_replaced_between_epochs(files, num_workers):
    """With transforms of the same kind, of another kind, and back."""
    dataset = dataset_of(files, "val")
    loader = TrainLoader(dataset, 4, num_workers, pin_memory=False, seed=3)
    published = dataset._transforms
    darker = ToNormalizedTensor([0.9] * 3, [0.5] * 3)
    changed = [
        (Compose([RandomResize([30]), darker]), ByteImages),
        (Compose([RandomResize([30]), ToTensor()]), NestedTensor),
        (published, ByteImages),
    ]
    for epoch, (transforms, kind) in enumerate(changed):
        dataset._transforms = transforms
        loader.start_at(epoch)
        ((images, _),) = loader
        (indices,) = loader.batches
        expected, _ = collate_fn([dataset[index] for index in indices])
        assert type(images) is kind
        torch.testing.assert_close(images.to("cpu").tensors, expected.tensors)

"""Batches of 8-bit images: the values, padding and mask of normalized images that are padded."""

import pickle

import pytest
import torch
from torchvision.transforms import functional as F

from datasets.loading import byte_images
from datasets.loading.byte_images import ByteImages, Normalization
from util.nested_tensor import nested_tensor_from_tensor_list

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = {
    "one": [(4, 7)],
    "different": [(9, 4), (3, 11), (6, 6)],
    "equal": [(5, 3), (5, 3)],
    "one pixel": [(1, 1), (2, 1)],
}


def random_images(sizes_hw):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
        for size in sizes_hw
    ]


def normalized_before_padding(images):
    """As torchvision normalizes, and the original pads."""
    return nested_tensor_from_tensor_list(
        [F.normalize(F.to_tensor(image.permute(1, 2, 0).numpy()), MEAN, STD) for image in images]
    )


@pytest.fixture(params=[1, 5, 2**15])
def pixels_at_once(request, monkeypatch):
    monkeypatch.setattr(byte_images, "_PIXELS_AT_ONCE", request.param)


@pytest.mark.parametrize("sizes_hw", SIZES.values(), ids=SIZES)
def test_values_are_those_of_images_normalized_before_padding(sizes_hw, pixels_at_once):
    images = random_images(sizes_hw)
    expected = normalized_before_padding(images)
    batch = ByteImages(images, Normalization(MEAN, STD)).to(torch.device("cpu"))
    assert torch.equal(batch.tensors, expected.tensors) and batch.tensors.is_contiguous()
    assert torch.equal(batch.mask, expected.mask)


def test_every_value_of_a_pixel():
    image = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, -1, -1)
    batch = ByteImages([image], Normalization(MEAN, STD)).to("cpu")
    assert torch.equal(batch.tensors, normalized_before_padding([image]).tensors)


def test_a_gray_channel_is_used_for_all():
    gray = random_images([(3, 4)])[0][:1]
    batch = ByteImages([gray], Normalization(MEAN, STD)).to("cpu")
    assert torch.equal(batch.tensors, normalized_before_padding([gray.expand(3, -1, -1)]).tensors)


def test_tensors_and_mask_can_be_read_without_a_device():
    images = random_images(SIZES["different"])
    batch, expected = (
        ByteImages(images, Normalization(MEAN, STD)),
        normalized_before_padding(images),
    )
    assert torch.equal(batch.tensors, expected.tensors)
    assert torch.equal(batch.mask, expected.mask)
    assert batch.sizes_hw == SIZES["different"]


def test_workers_send_one_byte_per_value():
    images = random_images([(100, 120), (80, 90)])
    batch = ByteImages(images, Normalization(MEAN, STD))
    sent = pickle.dumps(batch)
    assert len(sent) < 1.1 * sum(image.numel() for image in images)
    assert torch.equal(pickle.loads(sent).tensors, batch.tensors)


@pytest.mark.cuda
def test_a_gpu_computes_the_same_values():
    images = random_images(SIZES["different"])
    batch = ByteImages(images, Normalization(MEAN, STD)).pin_memory()
    on_gpu = batch.to(torch.device("cuda"), non_blocking=True)
    assert torch.equal(on_gpu.tensors.cpu(), normalized_before_padding(images).tensors)

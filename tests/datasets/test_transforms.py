"""Images and targets change together: against naive loops, by round trips, at the extremes."""

import random

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from PIL import Image

import datasets.transforms as T

# Drawn by the original codebase for the seeds 0 to 3 on a picture of 90 x 60.
SIZE_CROPS = [(47, 32), (24, 38), (50, 47), (27, 38)]
RESIZES = [(90, 60), (75, 50), (60, 40), (75, 50)]
PADS = [(96, 66), (92, 69), (90, 61), (93, 69)]
FLIPS = [False, True, False, True]
CROP_PLACE = (18, 39)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def full_target(width: int, height: int, num_objects: int, seed: int = 0) -> T.Target:
    """Objects with boxes, masks that fill them, and 17 keypoints, some of them not labelled."""
    generator = torch.Generator().manual_seed(seed)
    limit = torch.tensor([width, height])
    start = (torch.rand(num_objects, 2, generator=generator) * limit * 0.7).floor()
    end = torch.minimum(start + 2 + (torch.rand(num_objects, 2, generator=generator) * 20), limit)
    boxes = torch.cat([start, end.floor()], dim=1)
    masks = torch.zeros(num_objects, height, width, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = 1
    visibility = torch.randint(0, 3, (num_objects, 17, 1), generator=generator)
    place = (torch.rand(num_objects, 17, 2, generator=generator) * limit).floor()
    return {
        "boxes": boxes,
        "labels": torch.arange(1, num_objects + 1),
        "area": (boxes[:, 2:] - boxes[:, :2]).prod(1),
        "iscrowd": torch.zeros(num_objects, dtype=torch.int64),
        "masks": masks,
        "keypoints": torch.cat([place * (visibility > 0), visibility], dim=-1),
        "size": torch.tensor([height, width]),
        "orig_size": torch.tensor([height, width]),
        "image_id": torch.tensor([7]),
    }


def assert_same_target(actual: T.Target, expected: T.Target) -> None:
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, check_dtype=False, msg=key)


@pytest.mark.parametrize(
    "transform",
    [
        lambda image, target: T.crop(image, target, (5, 8, 20, 30)),
        T.hflip,
        lambda image, target: T.resize(image, target, 33),
        lambda image, target: T.pad(image, target, (4, 9)),
        lambda image, target: T.Normalize([0.5] * 3, [0.2] * 3)(*T.ToTensor()(image, target)),
    ],
    ids=["crop", "hflip", "resize", "pad", "normalize"],
)
@pytest.mark.parametrize("num_objects", [0, 5])
def test_input_is_left_alone_and_target_is_optional(transform, num_objects):
    image, target = picture(60, 40), full_target(60, 40, num_objects)
    pixels, before = image.tobytes(), {key: value.clone() for key, value in target.items()}
    _, changed = transform(image, target)
    assert image.tobytes() == pixels
    assert_same_target(target, before)
    assert changed.keys() == before.keys()
    changed_image, nothing = transform(image, None)
    assert nothing is None
    assert type(changed_image) is type(transform(image, target)[0])


@pytest.mark.parametrize("region", [(5, 8, 20, 30), (0, 0, 40, 60), (30, 50, 10, 10)])
def test_crop_equals_a_loop_over_objects(region):
    top, left, height, width = region
    image, target = picture(60, 40), full_target(60, 40, 8)
    cropped, actual = T.crop(image, target, region)
    np.testing.assert_array_equal(
        np.asarray(cropped), np.asarray(image)[top : top + height, left : left + width]
    )
    expected = []
    for index, (x0, y0, x1, y1) in enumerate(target["boxes"].tolist()):
        x0, x1 = max(0, x0 - left), min(width, x1 - left)
        y0, y1 = max(0, y0 - top), min(height, y1 - top)
        if x1 > x0 and y1 > y0:
            expected.append((index, [x0, y0, x1, y1]))
    kept = [index for index, _ in expected]
    torch.testing.assert_close(
        actual["boxes"], torch.tensor([box for _, box in expected]).view(-1, 4)
    )
    assert actual["labels"].tolist() == [index + 1 for index in kept]
    # the masks fill their boxes, so both must agree after the cut as well
    assert actual["masks"].flatten(1).sum(1).tolist() == actual["area"].tolist()
    assert actual["size"].tolist() == [height, width]
    assert actual["orig_size"].tolist() == [40, 60]


def test_crop_moves_keypoints_and_forgets_those_outside():
    points = torch.tensor([[[12.0, 9, 2], [12, 30, 2], [2, 9, 1], [0, 0, 0], [35, 9, 1]]])
    _, target = T.crop(picture(60, 40), {"keypoints": points}, (4, 10, 20, 25))
    expected = [[2.0, 5, 2], [0, 0, 0], [0, 0, 0], [0, 0, 0], [25, 5, 1]]
    assert target["keypoints"][0].tolist() == expected


def test_crop_without_boxes_keeps_what_masks_show():
    target = full_target(60, 40, 6)
    del target["boxes"]
    _, cropped = T.crop(picture(60, 40), target, (0, 0, 18, 25))
    visible = target["masks"][:, :18, :25].flatten(1).sum(1) > 0
    assert 0 < visible.sum() < 6
    assert cropped["labels"].tolist() == target["labels"][visible].tolist()
    assert torch.equal(cropped["area"], target["area"][visible])


def test_center_crop_beyond_the_image_pads_image_and_masks_alike():
    white = Image.new("RGB", (20, 10), "white")
    target = {"masks": torch.ones(1, 10, 20, dtype=torch.uint8)}
    image, target = T.CenterCrop((16, 12))(white, target)
    assert image.size == (12, 16)
    assert torch.equal(torch.from_numpy(np.array(image)[..., 0] // 255), target["masks"][0])
    assert target["masks"].sum() == 10 * 12


def test_hflip_twice_changes_nothing():
    image, target = picture(60, 40), full_target(60, 40, 5)
    back, restored = T.hflip(*T.hflip(image, target))
    assert back.tobytes() == image.tobytes()
    assert_same_target(restored, target)


def test_hflip_mirrors_boxes_with_masks_and_swaps_left_and_right():
    image, target = picture(60, 40), full_target(60, 40, 4)
    _, flipped = T.hflip(image, target)
    for mask, box in zip(flipped["masks"], flipped["boxes"].int().tolist(), strict=True):
        x0, y0, x1, y1 = box
        assert mask[y0:y1, x0:x1].all()
        assert mask.sum() == (x1 - x0) * (y1 - y0)
    left_eye, right_eye = 1, 2
    points = torch.zeros(1, 17, 3)
    points[0, left_eye] = torch.tensor([10.0, 5, 2])
    _, flipped = T.hflip(image, {"keypoints": points})
    assert flipped["keypoints"][0, right_eye].tolist() == [50, 5, 2]
    assert flipped["keypoints"].count_nonzero() == 3  # points not labelled stay at zero


def test_hflip_keeps_the_order_of_other_keypoint_sets():
    points = torch.tensor([[[10.0, 5, 2], [20, 6, 1]]])
    _, flipped = T.hflip(picture(60, 40), {"keypoints": points})
    assert flipped["keypoints"][0].tolist() == [[50, 5, 2], [40, 6, 1]]


@pytest.mark.parametrize(
    ("size_wh", "size", "max_size", "expected_wh"),
    [
        ((640, 480), 800, 1333, (1066, 800)),
        ((480, 640), 800, 1333, (800, 1066)),
        ((1200, 300), 800, 1333, (1332, 333)),
        ((50, 50), 17, None, (17, 17)),
        ((40, 1), 64, 60, (80, 2)),
        ((60, 40), 40, None, (60, 40)),
        ((60, 40), (7, 9), None, (7, 9)),
    ],
)
def test_resize_gives_the_original_sizes(size_wh, size, max_size, expected_wh):
    image, target = T.resize(Image.new("RGB", size_wh), {}, size, max_size)
    assert image.size == expected_wh
    assert target["size"].tolist() == [expected_wh[1], expected_wh[0]]


@pytest.mark.parametrize("size_wh", [(4000, 1), (1, 4000), (3000, 1), (1, 1)])
@pytest.mark.parametrize("max_size", [None, 1333])
def test_thin_images_never_vanish(size_wh, max_size):
    image, _ = T.resize(Image.new("RGB", size_wh), None, 2, max_size)
    assert min(image.size) >= 1
    assert (image.width < image.height) == (size_wh[0] < size_wh[1])
    if max_size and max(size_wh) > 2 * max_size:
        assert max(image.size) == max_size


@pytest.mark.parametrize("size_wh", [(33, 71), (120, 80), (61, 39), (60, 40)])
def test_resize_scales_everything_alike(size_wh):
    image, target = picture(60, 40), full_target(60, 40, 5)
    scaled, actual = T.resize(image, target, size_wh)
    ratio = torch.tensor([size_wh[0] / 60, size_wh[1] / 40])
    torch.testing.assert_close(actual["boxes"], target["boxes"] * ratio.repeat(2))
    torch.testing.assert_close(actual["area"], target["area"] * ratio.prod())
    torch.testing.assert_close(actual["keypoints"][..., :2], target["keypoints"][..., :2] * ratio)
    assert torch.equal(actual["keypoints"][..., 2], target["keypoints"][..., 2])
    as_float = target["masks"][:, None].float()
    nearest = torch.nn.functional.interpolate(as_float, size_wh[::-1], mode="nearest")[:, 0]
    assert torch.equal(actual["masks"], nearest > 0.5)
    assert scaled.tobytes() == F.resize(image, size_wh[::-1]).tobytes()


def test_pad_then_crop_changes_nothing():
    image, target = picture(60, 40), full_target(60, 40, 5)
    padded, wider = T.pad(image, target, (7, 3))
    assert padded.size == (67, 43)
    assert wider["size"].tolist() == [43, 67]
    assert wider["masks"].shape == (5, 43, 67)
    assert not np.asarray(padded)[40:].any()
    back, restored = T.crop(padded, wider, (0, 0, 40, 60))
    assert back.tobytes() == image.tobytes()
    assert_same_target(restored, target)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_to_tensor_equals_torchvision(mode):
    image = picture(31, 17).convert(mode)
    tensor, _ = T.ToTensor()(image, None)
    assert torch.equal(tensor, F.to_tensor(image))
    assert tensor.is_contiguous()


def test_to_tensor_converts_arrays_as_torchvision():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    for array in (pixels, pixels[..., 0], pixels / np.float32(255)):
        tensor, _ = T.ToTensor()(array, None)
        assert torch.equal(tensor, F.to_tensor(array))


def test_normalize_equals_torchvision_and_makes_boxes_relative():
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    image, _ = T.ToTensor()(picture(50, 20), None)
    target = {"boxes": torch.tensor([[10.0, 5, 30, 15]])}
    normalized, target = T.Normalize(mean, std)(image, target)
    assert torch.equal(normalized, F.normalize(image, mean, std))
    torch.testing.assert_close(target["boxes"], torch.tensor([[0.4, 0.5, 0.4, 0.5]]))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_one_pass_gives_the_tensor_of_both_transforms(mode):
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    image = picture(310, 170).convert(mode)
    before = {"boxes": torch.tensor([[10.0, 5, 30, 15]]), "labels": torch.tensor([2])}
    expected, expected_target = T.Normalize(mean, std)(*T.ToTensor()(image, before))
    normalized, target = T.ToNormalizedTensor(mean, std)(image, before)
    assert torch.equal(normalized, expected) and normalized.is_contiguous()
    assert_same_target(target, expected_target)
    assert before["boxes"].tolist() == [[10, 5, 30, 15]]
    assert T.ToNormalizedTensor(mean, std)(image, None)[1] is None


def test_bytes_of_an_image_have_relative_boxes():
    pixels, target = T.ToBytes()(picture(50, 20), {"boxes": torch.tensor([[10.0, 5, 30, 15]])})
    assert np.array_equal(pixels.permute(1, 2, 0), picture(50, 20)) and pixels.dtype == torch.uint8
    torch.testing.assert_close(target["boxes"], torch.tensor([[0.4, 0.5, 0.4, 0.5]]))


def seeded(transform, seed: int):
    random.seed(seed)
    torch.manual_seed(seed)
    return transform(picture(90, 60), {"boxes": torch.tensor([[0.0, 0, 90, 60]])})


def test_draws_are_those_of_the_original():
    sizes = [seeded(T.RandomSizeCrop(20, 50), seed)[0].size for seed in range(4)]
    assert sizes == SIZE_CROPS
    shorts = [seeded(T.RandomResize([40, 50, 60, 70], 90), seed)[0].size for seed in range(4)]
    assert shorts == RESIZES
    pads = [seeded(T.RandomPad(9), seed)[0].size for seed in range(4)]
    assert pads == PADS
    flips = [
        seeded(T.RandomHorizontalFlip(), seed)[0].tobytes() != picture(90, 60).tobytes()
        for seed in range(4)
    ]
    assert flips == FLIPS
    cropped, _ = seeded(T.RandomCrop((30, 31)), 0)
    top, left = CROP_PLACE
    assert cropped.tobytes() == T.crop(picture(90, 60), None, (top, left, 30, 31))[0].tobytes()


def test_size_crop_of_a_small_image_keeps_its_short_side():
    image, _ = T.RandomSizeCrop(50, 70)(picture(80, 30), None)
    assert image.height == 30
    assert 50 <= image.width <= 70


def test_probabilities_zero_and_one():
    image, target = picture(20, 10), full_target(20, 10, 2)
    assert T.RandomHorizontalFlip(0.0)(image, target)[0] is image
    assert T.RandomHorizontalFlip(1.0)(image, target)[0].tobytes() != image.tobytes()
    small, large = T.RandomResize([5]), T.RandomResize([15])
    assert T.RandomSelect(small, large, 1.0)(image, target)[0].size == (10, 5)
    assert T.RandomSelect(small, large, 0.0)(image, target)[0].size == (30, 15)


def test_compose_applies_in_order_and_names_its_parts():
    composed = T.Compose([T.RandomResize([20]), T.ToTensor()])
    tensor, target = composed(picture(40, 40), full_target(40, 40, 1))
    assert tensor.shape == (3, 20, 20)
    assert target["size"].tolist() == [20, 20]
    assert "RandomResize" in repr(composed)


def test_random_erasing_erases_a_region_only():
    torch.manual_seed(0)
    image = torch.ones(3, 20, 20)
    erased, _ = T.RandomErasing(p=1.0)(image, None)
    share = (erased == 0).float().mean()
    assert 0.01 < share < 0.4
    assert image.all()

"""Panoptic evaluation of images of several sizes."""

import io

import numpy as np
import torch

from datasets.evaluation.batch_results import panoptic_maps
from models.panoptic import PostProcessPanoptic
from util.files.panoptic_png import decode_id_map

SIZES_HW = [(24, 40), (36, 20), (24, 20)]


def ideal_outputs(sizes_hw, padded_hw):
    """Logits of a left and a right half of each image, at half the padded resolution."""
    height, width = (side // 2 for side in padded_hw)
    masks = torch.full((len(sizes_hw), 2, height, width), -8.0)
    for image, (_, w) in enumerate(sizes_hw):
        masks[image, 0, :, : w // 4] = 8
        masks[image, 1, :, w // 4 :] = 8
    logits = torch.zeros(len(sizes_hw), 2, 4)
    logits[:, 0, 1] = logits[:, 1, 2] = 9
    return {"pred_logits": logits, "pred_masks": masks}


def maps_of(sizes_hw):
    padded_hw = tuple(max(side) for side in zip(*sizes_hw, strict=True))
    targets = [
        {"image_id": torch.tensor([i]), "size": torch.tensor(hw), "orig_size": torch.tensor(hw)}
        for i, hw in enumerate(sizes_hw)
    ]
    postprocessor = PostProcessPanoptic({1: True, 2: True})
    maps = panoptic_maps(postprocessor, ideal_outputs(sizes_hw, padded_hw), targets, padded_hw)
    return [decode_id_map(io.BytesIO(one["png_string"])) for one in maps]


def test_a_batch_of_several_sizes_gives_what_each_image_gives_alone():
    together = maps_of(SIZES_HW)
    for id_map, size_hw in zip(together, SIZES_HW, strict=True):
        (alone,) = maps_of([size_hw])
        assert np.array_equal(id_map, alone)
        assert id_map.shape == size_hw
        assert (id_map[:, : size_hw[1] // 2 - 1] == 0).all()
        assert (id_map[:, size_hw[1] // 2 + 1 :] == 1).all()

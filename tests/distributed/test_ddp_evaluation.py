"""Evaluation by one, two and three processes: every image once, the same numbers."""

import argparse

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import engine
import main
from datasets import build_dataset, build_ground_truth
from datasets.loading.loaders import build_val_loader
from datasets.shapes.directory import write_shapes
from tests.distributed.processes import run_connected
from tests.test_engine import CPU, TINY
from training.network import build_network
from util.distributed.processes import get_rank, is_dist_avail_and_initialized
from util.options import fill_in_new_flags

FLAGS = f"{TINY} --dataset_file shapes_panoptic --masks --panoptic_threshold 0 --scales 64"
NUM_IMAGES = 5  # neither two nor three divide it
NUM_QUERIES = 10


class WellInformed(nn.Module):
    """Knows the truth of every image, and gives a part of it away: no score is 0 or 1."""

    def __init__(self, dataset, num_classes):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)  # with running statistics that differ between processes
        self.norm.running_mean.fill_(float(get_rank()))
        self._num_classes = num_classes
        samples = [dataset[index] for index in range(len(dataset))]
        self._known = {self._name(image): target for image, target in samples}

    @staticmethod
    def _name(image):
        return round(float(image.double().abs().sum()), 2)

    def forward(self, samples):
        (image,) = samples.tensors
        target = self._known[self._name(image)]
        generator = torch.Generator().manual_seed(int(target["image_id"]))
        count = min(len(target["labels"]), NUM_QUERIES)
        logits = torch.randn(1, NUM_QUERIES, self._num_classes + 1, generator=generator)
        logits[0, range(count), target["labels"][:count]] += 4
        logits[0, count:, -1] += 4
        boxes = torch.rand(1, NUM_QUERIES, 4, generator=generator) * 0.3 + 0.1
        noise = torch.randn(count, 4, generator=generator) * 0.02
        boxes[0, :count] = (target["boxes"][:count] + noise).clamp(0.01, 0.99)
        masks = torch.full((1, NUM_QUERIES, *image.shape[-2:]), -8.0)
        shift = int(torch.randint(0, 4, (), generator=generator))
        shifted = target["masks"][:count].roll(shift, -1).float()
        masks[0, :count] = 8 * shifted - 4 + self.norm.running_mean.mean()
        return {"pred_logits": logits, "pred_boxes": boxes, "pred_masks": masks}


def score(root, output_dir=None):
    """What `engine.evaluate` gives in this process, and the detections of its evaluator."""
    parser = argparse.ArgumentParser(parents=[main.get_args_parser()])
    args = parser.parse_args([*FLAGS.split(), "--coco_path", str(root)])
    fill_in_new_flags(args)
    args.num_classes = 250
    dataset = build_dataset("val", args)
    _, criterion, postprocessors = build_network(args, dataset.is_thing)
    model = WellInformed(dataset, args.num_classes)
    if is_dist_avail_and_initialized():
        # DDP does not broadcast running statistics here, so `evaluate` must do it.
        model = DistributedDataParallel(model, broadcast_buffers=True, init_sync=False)
    stats, evaluator = engine.evaluate(
        model,
        criterion,
        postprocessors,
        build_val_loader(dataset, 1, 0, pin_memory=False),
        build_ground_truth(dataset, args),
        CPU,
        output_dir,
    )
    return stats, evaluator.detections("segm")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for num_images in (NUM_IMAGES, 1):
        write_shapes(root / str(num_images), num_train=1, num_val=num_images, image_size=64)
    return root


def score_both(root, folder):
    return score(root / str(NUM_IMAGES), folder), score(root / "1")


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    return score_both(data, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def together(data, tmp_path_factory):
    """For two and for three processes the views of each."""
    folder = tmp_path_factory.mktemp("together")
    views = run_connected(score_both, folder / "run", 2, 3, root=data, folder=folder)
    return dict(zip((2, 3), views, strict=True))


NUMBERS = ("coco_eval_bbox", "coco_eval_masks", "PQ_all", "PQ_th", "PQ_st")


def test_the_numbers_could_differ(alone):
    (stats, _), _ = alone
    for name in ("coco_eval_bbox", "coco_eval_masks"):
        assert 0.05 < stats[name][0] < 0.95 and len(stats[name]) == 12
    assert all(0.05 < stats[name]["pq"] < 0.95 for name in ("PQ_all", "PQ_th"))


@pytest.mark.distributed
@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("images", [NUM_IMAGES, 1])
def test_every_process_knows_the_same_numbers(alone, together, world, images):
    case = 0 if images == NUM_IMAGES else 1
    wanted, _ = alone[case]
    for stats, _ in (view[case] for view in together[world]):
        assert stats.keys() == wanted.keys()
        for name in NUMBERS:
            assert stats[name] == wanted[name], name
        losses = stats.keys() - set(NUMBERS)
        assert {"loss", "loss_mask", "class_error", "cardinality_error_unscaled"} <= losses
        for name in losses:
            assert stats[name] == pytest.approx(wanted[name], rel=1e-6), name


@pytest.mark.distributed
@pytest.mark.parametrize("world", [2, 3])
def test_the_main_process_alone_has_all_detections(alone, together, world):
    (main_view, _), *others = together[world]
    assert main_view[1] == alone[0][1] != []
    assert all(view[1] == [] for view, _ in others)

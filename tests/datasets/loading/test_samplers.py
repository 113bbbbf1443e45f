"""Who sees which images, in which order."""

import numpy as np
import pytest
import torch

import datasets.loading.samplers as samplers
from datasets.loading.samplers import BLOCK, EpochBatchSampler, ShareSampler, group_by_aspect


def with_processes(monkeypatch, world, rank):
    monkeypatch.setattr(samplers, "get_world_size", lambda: world)
    monkeypatch.setattr(samplers, "get_rank", lambda: rank)


def epoch_of(monkeypatch, world, accum_steps, batch_size=2, num_images=27, ratios=None):
    """Images of each step, of all processes and batches together."""
    steps = {}
    for rank in range(world):
        with_processes(monkeypatch, world, rank)
        sampler = EpochBatchSampler(num_images, batch_size, 5, accum_steps, ratios)
        sampler.start_at(3)
        batches = list(sampler)
        assert len(batches) == len(sampler) == sampler.num_batches
        for number, batch in enumerate(batches):
            assert len(batch) == batch_size
            steps.setdefault(number // accum_steps, []).extend(batch)
    return [sorted(images) for images in steps.values()]


@pytest.mark.parametrize(("world", "accum_steps"), [(4, 1), (2, 2), (1, 4)])
def test_steps_have_the_same_images_whoever_computes_them(monkeypatch, world, accum_steps):
    steps = epoch_of(monkeypatch, world, accum_steps)
    assert steps == epoch_of(monkeypatch, world=1, accum_steps=1, batch_size=8)
    assert len(steps) == 3 and len({image for step in steps for image in step}) == 24


def test_another_batch_size_keeps_the_order_of_the_images():
    sampler = EpochBatchSampler(27, 2, seed=5)
    sampler.start_at(3)
    order = [image for batch in sampler for image in batch]
    sampler.start_at(3, 1, batch_size=6)
    assert len(sampler) == 3 and list(sampler) == [order[6:12], order[12:18], order[18:24]]
    sampler.start_at(3)
    assert len(sampler) == 4  # until it is changed again


def test_no_epoch_of_one_seed_repeats_an_epoch_of_another():
    orders = set()
    for seed in range(3):
        sampler = EpochBatchSampler(27, 27, seed)
        for epoch in range(3):
            sampler.start_at(epoch)
            orders.add(tuple(next(iter(sampler))))
    assert len(orders) == 9


# ---- batches of similar aspect ratio


RATIOS = np.random.default_rng(0).choice([0.5, 0.75, 1.0, 4 / 3, 1.5, 2.0], 500)


def grouped(epoch=0, first=0, batch_size=4, ratios=RATIOS):
    sampler = EpochBatchSampler(len(ratios), batch_size, seed=5, aspect_ratios=ratios)
    sampler.start_at(epoch, first)
    return list(sampler)


def test_grouped_batches_have_each_image_once():
    images = [image for batch in grouped() for image in batch]
    assert sorted(images) == list(range(500))


def test_grouped_batches_have_similar_aspect_ratios():
    spreads = [np.ptp(np.log(RATIOS[batch])) for batch in grouped()]
    by_chance = EpochBatchSampler(500, 4, seed=5)
    assert np.mean(spreads) < 0.2 * np.mean([np.ptp(np.log(RATIOS[b])) for b in by_chance])


def test_grouped_batches_are_in_random_order_and_different_in_each_epoch():
    first, second = grouped(0), grouped(1)
    means = [RATIOS[batch].mean() for batch in first[:: BLOCK // 4]]
    assert means != sorted(means) and means != sorted(means, reverse=True)
    as_sets = [{frozenset(batch) for batch in batches} for batches in (first, second)]
    assert len(as_sets[0] & as_sets[1]) < 0.05 * len(first)
    assert grouped(1) == second


@pytest.mark.parametrize(("world", "accum_steps"), [(4, 1), (2, 2), (1, 4)])
def test_grouped_steps_have_the_same_images_whoever_computes_them(monkeypatch, world, accum_steps):
    steps = epoch_of(monkeypatch, world, accum_steps, num_images=500, ratios=RATIOS)
    expected = epoch_of(monkeypatch, 1, 1, batch_size=8, num_images=500, ratios=RATIOS)
    assert steps == expected and len(steps) == 62


def test_a_grouped_epoch_can_be_entered_in_its_middle():
    assert grouped(3, first=7) == grouped(3)[7:]


@pytest.mark.parametrize("num_images", [4, 15, 16, 17, 70])
def test_few_images_can_be_grouped(num_images):
    batches = grouped(ratios=RATIOS[:num_images])
    images = [image for batch in batches for image in batch]
    assert len(set(images)) == len(images) == num_images // 4 * 4


def test_images_that_fill_no_block_stay_at_the_end():
    """In front they would shift the blocks: batches would consist of parts of two."""
    order = torch.randperm(len(RATIOS), generator=torch.Generator().manual_seed(0))
    by_aspect = group_by_aspect(order, RATIOS, torch.Generator().manual_seed(1))
    assert len(RATIOS) % BLOCK == 4 and torch.equal(by_aspect[-4:], order[-4:])


def test_no_image_is_left_out_in_every_epoch():
    ratios = np.linspace(0.5, 2, 60)
    epochs = [grouped(epoch, batch_size=8, ratios=ratios) for epoch in range(20)]
    assert {image for batches in epochs for batch in batches for image in batch} == set(range(60))


# ---- shares


@pytest.mark.parametrize("num_images", [0, 1, 2, 3, 7, 12])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_shares_have_every_image_once_and_nothing_else(monkeypatch, num_images, world):
    shares = []
    for rank in range(world):
        with_processes(monkeypatch, world, rank)
        sampler = ShareSampler(num_images)
        shares.append(list(sampler))
        assert len(sampler) == len(shares[-1]) and shares[-1] == sorted(shares[-1])
    assert sorted(image for share in shares for image in share) == list(range(num_images))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_an_epoch_whose_data_has_shrunk_has_no_batches_left():
    """A run that was interrupted after 5 batches, and is resumed with fewer images."""
    batches = EpochBatchSampler(8, 2, seed=0)
    batches.start_at(epoch=1, batch=5)
    assert len(batches) == 0 and list(batches) == []

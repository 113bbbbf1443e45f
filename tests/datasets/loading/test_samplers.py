"""Who sees which images, in which order."""

import pytest

import datasets.loading.samplers as samplers
from datasets.loading.samplers import EpochBatchSampler, ShareSampler


def with_processes(monkeypatch, world, rank):
    monkeypatch.setattr(samplers, "get_world_size", lambda: world)
    monkeypatch.setattr(samplers, "get_rank", lambda: rank)


def epoch_of(monkeypatch, world, accum_steps, batch_size=2, num_images=27):
    """Images of each step, of all processes and batches together."""
    steps = {}
    for rank in range(world):
        with_processes(monkeypatch, world, rank)
        sampler = EpochBatchSampler(num_images, batch_size, seed=5, accum_steps=accum_steps)
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

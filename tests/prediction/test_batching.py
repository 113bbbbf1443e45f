"""Chunks that fit in memory, and batches of images of one size."""

import torch
from PIL import Image

from prediction.detector import batches_of_one_size, chunks


def test_a_chunk_has_enough_images_for_a_few_batches():
    images = ((number, Image.new("L", (2, 2))) for number in range(11))
    assert [[key for key, _ in chunk] for chunk in chunks(images, 1)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10],
    ]


def test_large_images_end_a_chunk():
    images = [(number, Image.new("L", (10, 10))) for number in range(5)]
    lengths = [len(chunk) for chunk in chunks(images, 8, max_pixels=200)]
    assert lengths == [2, 2, 1]


def test_a_chunk_reads_no_further_than_it_needs():
    read = []

    def images():
        for number in range(100):
            read.append(number)
            yield number, Image.new("L", (2, 2))

    next(chunks(images(), 2))
    assert len(read) == 8


def test_no_images_give_no_chunk():
    assert list(chunks([], 4)) == []


def test_batches_have_one_size_and_each_image_once():
    small, large = torch.zeros(3, 4, 4), torch.zeros(3, 4, 6)
    inputs = [small, large, small, small, large]
    assert batches_of_one_size(inputs, 2) == [[0, 2], [3], [1, 4]]

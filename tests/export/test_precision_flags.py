"""The flags --dtype and --int8: contradictions, tolerances, images of the comparison."""

import argparse
import dataclasses

import numpy as np
import pytest
from PIL import Image

from datasets.loading.byte_images import Normalization
from export.command import Job
from export.precision import check_precision_flags
from export.wrapper import ExportWrapper
from tests.export.small_files import NARROW_BOXES, source
from util.errors import UserError


@pytest.fixture
def job():
    model = source(NARROW_BOXES)
    return Job(model, ExportWrapper(model.model).eval(), {}, batches=[], tolerance=1e-3)


def flags(**changes):
    defaults = {"dtype": "fp32", "int8": None, "int8_images": None, "fixed_size": (32, 40)}
    defaults |= {"check_sizes": None, "check_batches": None}
    return argparse.Namespace(**{**defaults, **changes})


@pytest.fixture
def folder(tmp_path):
    for number in range(9):
        Image.fromarray(np.full((20, 30, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"int8_images": 3}, "--int8_images is only used with --int8"),
        ({"int8": "/no/folder"}, "is not a folder"),
        ({"int8": ".", "dtype": "bf16"}, "--int8 cannot be combined with --dtype bf16"),
        ({"int8": ".", "check_batches": [1]}, "are not used with --int8"),
    ],
)
def test_contradictions(job, changes, words):
    with pytest.raises(UserError, match=words):
        check_precision_flags(flags(**changes), job)


def test_the_tolerance_grows_as_bits_are_lost(job, folder):
    found = []
    for changes in ({}, {"dtype": "fp16"}, {"dtype": "bf16"}, {"int8": folder}):
        check_precision_flags(flags(**changes), job)
        found.append(job.tolerance)
    assert found == [1e-3, 0.02, 0.1, 0.5]


def test_int8_is_compared_on_images_of_the_folder(job, folder):
    check_precision_flags(flags(int8=folder), job)
    assert [images.shape for images, _ in job.batches] == [(1, 3, 32, 40)] * 4


def test_int8_images_are_normalized_as_the_model_needs(job, folder):
    unchanged = Normalization([0.0] * 3, [1.0] * 3)
    job.source = dataclasses.replace(job.source, normalization=unchanged)
    check_precision_flags(flags(int8=folder), job)
    assert all(images.min() >= 0 and images.max() <= 8 / 255 for images, _ in job.batches)

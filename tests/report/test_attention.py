"""Attention samples of the report."""

import argparse

import numpy as np
import pytest
import torch

import main
from datasets.shapes.directory import write_shapes
from models import build_model
from report.attention import TITLE, attention_samples
from report.ground_truth import read_ground_truth

SMALL = (
    "--backbone resnet18 --backbone_weights none --hidden_dim 16 --nheads 2 --enc_layers 1 "
    "--dec_layers 1 --num_queries 5 --dim_feedforward 16 --num_classes 6 --device cpu --scales 64"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint with random weights, and the ground truth of its data."""
    folder = tmp_path_factory.mktemp("run")
    write_shapes(folder / "data", num_train=2, num_val=5, image_size=64)
    parser = argparse.ArgumentParser(parents=[main.get_args_parser("cpu")])
    args = parser.parse_args([*SMALL.split(), "--coco_path", str(folder / "data")])
    checkpoint = {"model": build_model(args)[0].state_dict(), "args": vars(args)}
    torch.save(checkpoint, folder / "best.pth")
    return folder / "best.pth", read_ground_truth(vars(args), {}, {})


def test_decoder_and_encoder_of_three_images(run):
    samples = attention_samples(*run)[TITLE]
    names = [sample.file_name for sample in samples]
    assert len(set(names)) == 3 and names[::2] == names[1::2]
    for decoder, encoder in zip(samples[::2], samples[1::2], strict=True):
        assert "decoder, query" in decoder.caption and "encoder" in encoder.caption
        assert decoder.left == encoder.left and decoder.right != encoder.right
        assert all(url.startswith("data:image/webp;base64,") for url in decoder[2:])


def test_nothing_where_there_is_nothing_to_draw(run, tmp_path):
    checkpoint, ground_truth = run
    assert attention_samples(checkpoint, ground_truth._replace(image_folder=None)) == {}
    assert attention_samples(checkpoint, ground_truth._replace(image_folder=tmp_path)) == {}
    (tmp_path / "broken.pth").write_bytes(np.arange(9).tobytes())
    assert attention_samples(tmp_path / "broken.pth", ground_truth) == {}

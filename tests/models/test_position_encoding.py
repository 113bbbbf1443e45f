"""Position encodings against a loop, and at the edge of their range."""

import argparse
import math

import pytest
import torch

from models.position_encoding import (
    CellCenterEncoding,
    PositionEmbeddingLearned,
    PositionEmbeddingSine,
    build_position_encoding,
    encode_coordinates,
)
from util.nested_tensor import NestedTensor


def padded(*sizes, height=5, width=6):
    mask = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for row, (h, w) in zip(mask, sizes, strict=True):
        row[:h, :w] = False
    return NestedTensor(torch.zeros(len(sizes), 1, height, width), mask)


@pytest.mark.parametrize("normalize", [False, True])
def test_sine_equals_a_loop(normalize):
    sizes = [(5, 6), (3, 2)]
    encoded = PositionEmbeddingSine(4, temperature=20, normalize=normalize)(padded(*sizes))
    for image, (height, width) in enumerate(sizes):
        for y in range(height):
            for x in range(width):
                expected = []
                for place, extent in ((y + 1, height), (x + 1, width)):
                    if normalize:
                        place = place / (extent + 1e-6) * 2 * math.pi
                    for pair in range(2):
                        angle = place / 20 ** (2 * pair / 4)
                        expected += [math.sin(angle), math.cos(angle)]
                assert encoded[image, :, y, x].tolist() == pytest.approx(expected, abs=1e-5)


def test_sine_has_no_state_and_refuses_a_scale_alone():
    assert not PositionEmbeddingSine(4).state_dict()
    with pytest.raises(ValueError, match="normalize"):
        PositionEmbeddingSine(4, scale=1.0)


def test_learned_is_a_sum_of_rows_and_columns():
    encoding = PositionEmbeddingLearned(3)
    encoded = encoding(padded((5, 6), (1, 1)))
    assert encoded.shape == (2, 6, 5, 6)
    assert torch.equal(encoded[1, :3, 4, 2], encoding.col_embed.weight[2])
    assert torch.equal(encoded[0, 3:, 4, 2], encoding.row_embed.weight[4])
    assert encoding(padded((50, 50), height=50, width=50)).shape == (1, 6, 50, 50)


@pytest.mark.parametrize(("height", "width"), [(51, 3), (3, 51)])
def test_learned_refuses_large_maps(height, width):
    with pytest.raises(ValueError, match=f"50 x 50.*{height} x {width}.*--position_embedding sine"):
        PositionEmbeddingLearned(2)(padded((1, 1), height=height, width=width))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sine", PositionEmbeddingSine),
        ("v2", PositionEmbeddingSine),
        ("learned", PositionEmbeddingLearned),
        ("v3", PositionEmbeddingLearned),
    ],
)
def test_build(name, kind):
    encoding = build_position_encoding(argparse.Namespace(hidden_dim=8, position_embedding=name))
    assert type(encoding) is kind and encoding(padded((5, 6))).shape == (1, 8, 5, 6)


def test_build_refuses_other_names():
    with pytest.raises(ValueError, match="zzz"):
        build_position_encoding(argparse.Namespace(hidden_dim=8, position_embedding="zzz"))


def test_centers_of_cells_have_the_encoding_of_boxes_there():
    batch = padded((3, 4), (2, 3), height=3, width=4)
    encoded = CellCenterEncoding(6)(batch)
    assert encoded.shape == (2, 12, 3, 4)
    for image, (height, width) in enumerate([(3, 4), (2, 3)]):
        for row in range(height):
            for column in range(width):
                y, x = torch.tensor((row + 0.5) / height), torch.tensor((column + 0.5) / width)
                expected = torch.cat((encode_coordinates(y, 6), encode_coordinates(x, 6)))
                assert torch.allclose(encoded[image, :, row, column], expected, atol=1e-6)


def test_coordinates_equal_naive_loops():
    encoded = encode_coordinates(torch.tensor([0.0, 0.3, 1.0]), 6, temperature=20)
    for value, waves in zip((0.0, 0.3, 1.0), encoded.tolist(), strict=True):
        for channel, wave in enumerate(waves):
            angle = value * 2 * math.pi / 20 ** (2 * (channel // 2) / 6)
            expected = math.cos(angle) if channel % 2 else math.sin(angle)
            assert wave == pytest.approx(expected, abs=1e-6)

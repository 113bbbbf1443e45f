"""Recorded attention weights."""

import numpy as np
import pytest
import torch

from prediction.attention import AttentionMaps
from tests.export.small_files import NARROW_BOXES, NARROW_MASKS, build
from util.errors import UserError

IMAGE = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("architecture", [NARROW_BOXES, NARROW_MASKS], ids=["boxes", "masks"])
def test_each_head_has_its_own_map(architecture):
    model = build(architecture)
    with AttentionMaps(model) as maps:
        model(IMAGE)
    heads = maps.decoder_heads
    assert heads.shape == (architecture.nheads, 5, 2, 3) and maps.encoder.shape == (2, 3, 2, 3)
    np.testing.assert_allclose(heads.sum((2, 3)), 1, rtol=1e-5)
    assert np.abs(heads[0] - heads[1]).max() > 1e-3
    np.testing.assert_allclose(maps.decoder, heads.mean(0))


@torch.no_grad()
def test_a_map_of_a_head_is_computed_from_its_channels():
    model = build(NARROW_BOXES)
    layer = model.transformer.decoder.layers[-1].multihead_attn
    inputs = {}
    with AttentionMaps(model) as maps:
        hook = layer.register_forward_pre_hook(
            lambda module, given: inputs.update(query=given[0], key=given[1])
        )
        model(IMAGE)
        hook.remove()
    channels = slice(2 * 8, 3 * 8)  # of head 2: 32 channels in 4 heads
    query, key = (
        inputs[name][:, 0] @ weight.T + bias
        for name, weight, bias in zip(
            ("query", "key"),
            layer.in_proj_weight.split(32),
            layer.in_proj_bias.split(32),
            strict=False,
        )
    )
    expected = (query[:, channels] @ key[:, channels].T / 8**0.5).softmax(-1)
    np.testing.assert_allclose(maps.decoder_heads[2], expected.view(5, 2, 3), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_recording_does_not_change_the_predictions_and_ends():
    model = build(NARROW_BOXES)
    expected = model(IMAGE)["pred_boxes"]
    with AttentionMaps(model) as maps:
        torch.testing.assert_close(model(IMAGE)["pred_boxes"], expected, rtol=0, atol=1e-5)
    before = maps.encoder
    model(torch.zeros(1, 3, 64, 64))
    assert maps.encoder is before
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_minimal_model_has_no_maps():
    with pytest.raises(UserError, match="detr_demo"):
        AttentionMaps(torch.nn.Linear(1, 1))


@torch.no_grad()
def test_the_position_at_a_point():
    model = build(NARROW_BOXES)
    with AttentionMaps(model) as maps:
        model(IMAGE)
    points = [(0, 0), (0.4, 0.6), (1, 1), (1.2, -0.1)]
    assert [maps.cell_at(*point) for point in points] == [(0, 0), (1, 1), (1, 2), (0, 2)]

"""Positional queries and refined boxes, against the formulas of DAB-DETR."""

import math

import pytest
import torch

from models.anchor.decoder import AnchorDecoder
from tests.models.anchor.small_anchor_models import CHANNELS, build_transformer


def build(num_layers=3, pre_norm=False):
    return build_transformer(num_layers, normalize_before=pre_norm).decoder.double()


def inputs(num_queries=5):
    torch.manual_seed(1)
    content, memory, pos = (
        torch.randn(n, 2, CHANNELS, dtype=torch.float64) for n in (num_queries, 6, 6)
    )
    return content, torch.randn(num_queries, 2, 4, dtype=torch.float64), memory, pos


def sine(value, channels):
    """Naive encoding of one coordinate: sine and cosine in turn, temperature 20."""
    encoded = []
    for pair in range(channels // 2):
        angle = value * 2 * math.pi / 20 ** (2 * pair / channels)
        encoded += [math.sin(angle), math.cos(angle)]
    return encoded


def test_positional_queries_equal_the_formulas():
    decoder, (content, logits, _, _) = build(), inputs()
    boxes = logits.sigmoid()
    query_pos, center = decoder._positions(content, boxes)
    half = CHANNELS // 2
    for i in range(5):
        for image in range(2):
            x, y, w, h = boxes[i, image].tolist()
            joined = torch.tensor(
                [*sine(y, half), *sine(x, half), *sine(w, half), *sine(h, half)],
                dtype=torch.float64,
            )
            assert torch.allclose(query_pos[i, image], decoder.position_mlp(joined), atol=1e-6)
            wanted_w, wanted_h = decoder.size_mlp(content[i, image]).sigmoid().tolist()
            parts = [s * wanted_h / h for s in sine(y, half)]
            parts += [s * wanted_w / w for s in sine(x, half)]
            scaled = torch.tensor(parts, dtype=torch.float64) * decoder.scale_mlp(content[i, image])
            assert torch.allclose(center[i, image], scaled, atol=1e-5)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_each_layer_moves_the_boxes_of_the_layer_before(pre_norm):
    decoder, (content, logits, memory, pos) = build(pre_norm=pre_norm), inputs()
    states, boxes = decoder(content, logits, memory, pos)
    assert states.shape == (3, 5, 2, CHANNELS) and boxes.shape == (3, 5, 2, 4)
    before = logits
    for layer, state, after in zip(decoder.layers, states, boxes, strict=True):
        positions = decoder._positions(content, before.sigmoid())
        content = layer(content + positions[0], memory, *positions, pos)
        assert torch.allclose(state, decoder.norm(content))
        before = before + decoder.offset_mlp(decoder.norm(content))
        assert torch.allclose(after, before)


def test_boxes_of_a_layer_send_no_gradient_to_the_boxes_before():
    decoder, (content, logits, memory, pos) = build(), inputs()
    logits.requires_grad_()
    found = decoder(content, logits, memory, pos)[1]
    wanted, before = [], logits
    for layer in decoder.layers:
        positions = decoder._positions(content, before.sigmoid())
        content = layer(content + positions[0], memory, *positions, pos)
        wanted.append(before + decoder.offset_mlp(decoder.norm(content)))
        before = wanted[-1].detach()
    for boxes, by_hand in zip(found, wanted, strict=True):
        gradients = [
            torch.autograd.grad(each.sum(), logits, retain_graph=True)[0]
            for each in (boxes, by_hand)
        ]
        assert torch.allclose(*gradients) and gradients[0].abs().max() > 0


def test_initially_no_layer_moves_a_box_and_attention_depends_on_distance():
    torch.manual_seed(0)
    decoder = AnchorDecoder(2, CHANNELS, 2, 20, 0.0)
    decoder.init_weights()
    content, logits, memory, pos = (value.float() for value in inputs())
    boxes = decoder(content, logits, memory, pos)[1]
    assert torch.equal(boxes[0], logits) and torch.equal(boxes[1], logits)
    attention = decoder.layers[0].multihead_attn
    assert torch.equal(attention.query_position.weight, attention.key_position.weight)


def test_a_query_sees_only_what_its_mask_allows():
    decoder, (content, logits, memory, pos) = build(), inputs()
    mask = torch.zeros(5, 5, dtype=torch.bool)
    mask[:3, 3:] = True
    changed = content.clone()
    changed[3:] += 1
    before = decoder(content, logits, memory, pos, tgt_mask=mask)
    after = decoder(changed, logits, memory, pos, tgt_mask=mask)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a[:, :3], b[:, :3]) and not torch.allclose(a[:, 3:], b[:, 3:])

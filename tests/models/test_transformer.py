"""Attention, layers and stacks."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from models.transformer import (
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoderLayer,
)

SMALL = {
    "d_model": 16,
    "nhead": 4,
    "num_encoder_layers": 2,
    "num_decoder_layers": 3,
    "dim_feedforward": 20,
}


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    features, positions = (torch.randn(2, 16, 3, 4, generator=generator) for _ in range(2))
    mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    mask[1, :, 2:] = True
    return features, mask, torch.randn(5, 16, generator=generator), positions


def build(**options):
    torch.manual_seed(0)
    return Transformer(**{**SMALL, "return_intermediate_dec": True, **options}).eval()


def plain_attention(layer, query, key, value, padding):
    """Naive attention of one image; (length, channels), padding (source length,)."""
    heads, channels = layer.num_heads, layer.embed_dim
    projected = [
        F.linear(x, weight, bias).view(len(x), heads, -1).transpose(0, 1)
        for x, weight, bias in zip(
            (query, key, value),
            layer.in_proj_weight.chunk(3),
            layer.in_proj_bias.chunk(3),
            strict=True,
        )
    ]
    scores = projected[0] @ projected[1].transpose(1, 2) / (channels // heads) ** 0.5
    weights = scores.masked_fill(padding, float("-inf")).softmax(-1)
    return layer.out_proj((weights @ projected[2]).transpose(0, 1).flatten(1))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_encoder_layer_equals_the_formulas(pre_norm):
    torch.manual_seed(0)
    layer = TransformerEncoderLayer(16, 4, 20, normalize_before=pre_norm).eval()
    x, position = torch.randn(2, 7, 1, 16)
    padding = torch.tensor([False] * 5 + [True] * 2)

    def attend(x):
        q = x + position[:, 0]
        return plain_attention(layer.self_attn, q, q, x, padding)

    def perceive(x):
        return layer.linear2(layer.linear1(x).relu())

    y = x[:, 0]
    if pre_norm:
        y = y + attend(layer.norm1(y))
        y = y + perceive(layer.norm2(y))
    else:
        y = layer.norm1(y + attend(y))
        y = layer.norm2(y + perceive(y))
    found = layer(x, src_key_padding_mask=padding[None], pos=position)[:, 0]
    assert torch.allclose(found, y, atol=1e-5)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_decoder_layer_equals_the_formulas(pre_norm):
    torch.manual_seed(0)
    layer = TransformerDecoderLayer(16, 4, 20, normalize_before=pre_norm).eval()
    tgt, query_pos = torch.randn(2, 3, 1, 16)
    memory, pos = torch.randn(2, 6, 1, 16)
    none = torch.zeros(3, dtype=torch.bool)
    padding = torch.tensor([False] * 4 + [True] * 2)

    def look_around(x):
        q = x + query_pos[:, 0]
        return plain_attention(layer.self_attn, q, q, x, none)

    def look_at_image(x):
        query, key = x + query_pos[:, 0], (memory + pos)[:, 0]
        return plain_attention(layer.multihead_attn, query, key, memory[:, 0], padding)

    def perceive(x):
        return layer.linear2(layer.linear1(x).relu())

    y = tgt[:, 0]
    norms = (layer.norm1, layer.norm2, layer.norm3)
    for norm, part in zip(norms, (look_around, look_at_image, perceive), strict=True):
        y = y + part(norm(y)) if pre_norm else norm(y + part(y))
    found = layer(tgt, memory, memory_key_padding_mask=padding[None], pos=pos, query_pos=query_pos)
    assert torch.allclose(found[:, 0], y, atol=1e-5)


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu", "glu"])
def test_every_activation_works(activation, pre_norm):
    model = build(activation=activation, normalize_before=pre_norm)
    states, memory = model(*inputs())
    assert states.shape == (3, 2, 5, 16) and memory.shape == (2, 16, 3, 4)
    states.sum().backward()
    used = [p for name, p in model.named_parameters() if "decoder" in name]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in used)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_every_branch_has_dropout(pre_norm):
    """With probability 1 only the residual connections are left."""
    x, memory = torch.randn(2, 3, 1, 16)
    layers = [
        layer(16, 4, 20, dropout=1.0, normalize_before=pre_norm)
        for layer in (TransformerEncoderLayer, TransformerDecoderLayer)
    ]
    for name, bias in ((n, p) for layer in layers for n, p in layer.named_parameters()):
        if name.endswith("bias"):
            torch.nn.init.normal_(bias)  # else attention without weights gives zeros anyway
    found = [layers[0](x), layers[1](x, memory)]
    for layer, output in zip(layers, found, strict=True):
        expected = x
        for norm in [] if pre_norm else [m for n, m in layer.named_children() if "norm" in n]:
            expected = norm(expected)
        assert torch.allclose(output, expected, atol=1e-6)


def test_unknown_activation():
    with pytest.raises(ValueError, match="tanh"):
        build(activation="tanh")


def test_all_layers_or_the_last():
    every, last = build(), build(return_intermediate_dec=False)
    last.load_state_dict(every.state_dict())
    assert torch.equal(every(*inputs())[0][-1:], last(*inputs())[0])


def test_intermediate_outputs_share_the_final_norm():
    torch.manual_seed(0)
    norm = torch.nn.LayerNorm(16)
    torch.nn.init.uniform_(norm.weight, 0.5, 2)  # else it repeats the norm of the last layer
    decoder = TransformerDecoder(TransformerDecoderLayer(16, 4), 2, norm, return_intermediate=True)
    decoder.eval()
    tgt, memory = torch.randn(3, 1, 16), torch.randn(4, 1, 16)
    first = decoder.layers[0](tgt, memory)
    expected = torch.stack([norm(first), norm(decoder.layers[1](first, memory))])
    assert torch.allclose(decoder(tgt, memory), expected, atol=1e-6)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_padding_is_never_looked_at(pre_norm):
    model = build(normalize_before=pre_norm)
    features, mask, queries, positions = inputs()
    spoilt = features + 100 * mask[:, None]
    for a, b in zip(
        model(features, mask, queries, positions)[0],
        model(spoilt, mask, queries, positions)[0],
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-5)


def mixed_precision():
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_mixed_precision_never_looks_at_padding(pre_norm):
    model = build(normalize_before=pre_norm)
    features, mask, queries, positions = inputs()
    spoilt = features + 100 * mask[:, None]
    with mixed_precision():
        found = [model(x, mask, queries, positions)[0] for x in (features, spoilt)]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("dropout", "training", "grad", "dtype"),
    [
        (0.0, True, True, torch.float32),
        (0.1, False, True, torch.float32),
        (0.1, True, True, None),  # not by that function, see models.fast.dropout
        (0.0, False, False, torch.bfloat16),
    ],
)
def test_mixed_precision_computes_heads_in_float32_where_that_is_faster(
    monkeypatch, dropout, training, grad, dtype
):
    seen = []
    compute = F.scaled_dot_product_attention

    def remember(q, k, v, *options, **more_options):
        seen.append({q.dtype, k.dtype, v.dtype})
        return compute(q, k, v, *options, **more_options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", remember)
    with mixed_precision(), torch.set_grad_enabled(grad):
        build(dropout=dropout).train(training)(*inputs())
    assert seen == (
        [] if dtype is None else [{dtype}] * 8
    )  # two encoder layers, and twice three of the decoder


@pytest.mark.parametrize(("precision", "tolerance"), [(nullcontext, 1e-5), (mixed_precision, 5e-2)])
def test_attention_weights_appear_for_hooks_only(precision, tolerance):
    model = build()
    attention = model.decoder.layers[-1].multihead_attn
    seen = []
    with precision():
        expected = model(*inputs())[0]
        hook = attention.register_forward_hook(lambda m, args, output: seen.append(output[1]))
        found = model(*inputs())[0]
        hook.remove()
        assert torch.equal(model(*inputs())[0], expected)
    assert torch.allclose(found, expected, atol=tolerance)
    assert seen[0].shape == (2, 5, 12)
    assert torch.allclose(seen[0].float().sum(-1), torch.ones(2, 5), atol=tolerance)
    assert seen[0][1].view(5, 3, 4)[:, :, 2:].abs().max() == 0  # padding


def test_keys_match_the_released_files():
    keys = list(build().state_dict())
    first = [key for key in keys if key.startswith("encoder.layers.0.")]
    assert [key.removeprefix("encoder.layers.0.") for key in first] == [
        *("self_attn.in_proj_weight", "self_attn.in_proj_bias"),
        *("self_attn.out_proj.weight", "self_attn.out_proj.bias"),
        *("linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias"),
        *("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"),
    ]
    assert "encoder.norm.weight" not in keys and keys[-1] == "decoder.norm.bias"
    assert "encoder.norm.weight" in build(normalize_before=True).state_dict()
    assert keys.index("decoder.layers.0.self_attn.in_proj_weight") < keys.index(
        "decoder.layers.0.multihead_attn.in_proj_weight"
    )

"""The paper's minimal model."""

import pytest
import torch

from models.demo import MinimalDETR
from util.errors import UserError


def build(num_classes=4):
    torch.manual_seed(0)
    sizes = {"hidden_dim": 16, "nheads": 2, "num_encoder_layers": 1, "num_decoder_layers": 2}
    return MinimalDETR(num_classes, **sizes).eval()


def image(*size_hw, number=1):
    return torch.rand(number, 3, *size_hw, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def step_by_step(model, x):
    """The computation in the paper for one image (1, 3, H, W), cell by cell."""
    body = model.backbone
    x = body.maxpool(body.relu(body.bn1(body.conv1(x))))
    x = model.conv(body.layer4(body.layer3(body.layer2(body.layer1(x)))))[0]
    cells = [
        torch.cat((model.col_embed[column], model.row_embed[row])) + 0.1 * x[:, row, column]
        for row in range(x.shape[1])
        for column in range(x.shape[2])
    ]
    memory = model.transformer.encoder(torch.stack(cells)[None])
    return model.transformer.decoder(model.query_pos[None], memory)


@torch.no_grad()
def test_equals_the_computation_step_by_step():
    model, x = build(), image(64, 128)
    states = step_by_step(model, x)
    outputs = model(x)
    torch.testing.assert_close(outputs["pred_logits"], model.linear_class(states))
    torch.testing.assert_close(outputs["pred_boxes"], model.linear_bbox(states).sigmoid())


@torch.no_grad()
def test_a_batch_equals_its_images_separately():
    model, batch = build(), image(64, 96, number=3)
    together = model(batch)
    assert together["pred_logits"].shape == (3, 100, 5)
    for index in range(3):
        alone = model(batch[index : index + 1])
        torch.testing.assert_close(together["pred_boxes"][index], alone["pred_boxes"][0])


def test_keys_match_the_released_weights():
    state = MinimalDETR(91).state_dict()
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    expected = {
        "query_pos": (100, 256),
        "row_embed": (50, 128),
        "col_embed": (50, 128),
        "conv.weight": (256, 2048, 1, 1),
        "linear_class.weight": (92, 256),
        "linear_bbox.weight": (4, 256),
        "transformer.encoder.layers.5.self_attn.in_proj_weight": (768, 256),
        "transformer.decoder.layers.5.linear1.weight": (2048, 256),
        "transformer.decoder.norm.weight": (256,),
        "backbone.layer4.2.conv3.weight": (2048, 512, 1, 1),
    }
    assert {key: shapes[key] for key in expected} == expected
    rooms = {key.split(".")[0] for key in state}
    assert rooms == {key.split(".")[0] for key in expected}
    assert not any(key.startswith("backbone.fc") for key in state)


def test_weights_without_batch_counters_load_too():
    """A file that was made with frozen batch norms has none."""
    model = build()
    state = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    other = MinimalDETR(4, 16, 2, 1, 2)
    other.load_state_dict(state)
    torch.testing.assert_close(other.query_pos, model.query_pos)


@torch.no_grad()
def test_the_largest_image():
    model = build()
    assert model(image(32, 1600))["pred_boxes"].shape == (1, 100, 4)
    with pytest.raises(UserError, match="at most 1600 pixels per side"):
        model(image(32, 1601))


@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*:DeprecationWarning"
)
@pytest.mark.parametrize("grad", [True, False])
def test_it_can_be_traced(grad):
    model, x = build(), image(64, 96)
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(model, x, strict=False)
        found, expected = traced(x), model(x)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:'norm' was found in ScriptModule constants:UserWarning")
@torch.no_grad()
def test_it_can_be_scripted():
    model, x = build(), image(70, 133, number=2)
    found = torch.jit.script(model)(x)
    for name, value in model(x).items():
        torch.testing.assert_close(found[name], value)

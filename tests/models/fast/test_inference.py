"""Models optimized for inference against the models themselves."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from models.backbone import Backbone, Joiner
from models.demo import MinimalDETR
from models.detr import DETR
from models.fast import fused_transformer
from models.fast.inference import optimize_for_inference
from models.position_encoding import PositionEmbeddingLearned, PositionEmbeddingSine
from models.segmentation import DETRsegm
from models.transformer import Transformer
from tests.models.small_models import build_segmenter, images
from tests.narrow_resnet import NARROW
from training.network import prepare_for_training
from util.nested_tensor import NestedTensor, nested_tensor_from_tensor_list

SIZES = [(70, 90), (33, 128)]


def randomize_norms(model):
    """Statistics and weights of batch norms as after training, so that folding them matters."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if "Norm2d" in type(module).__name__:
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
    return model


def build(
    backbone=NARROW, dilation=False, norm="frozen", positions=None, masks=False, **transformer
):
    torch.manual_seed(0)
    body = Backbone(backbone, True, masks, dilation, weights="none", norm=norm)
    settings = {"d_model": 16, "nhead": 2, "dim_feedforward": 24, "num_encoder_layers": 2}
    settings |= {"num_decoder_layers": 2, "return_intermediate_dec": True, **transformer}
    joiner = Joiner(body, positions or PositionEmbeddingSine(8, normalize=True))
    detr = DETR(joiner, Transformer(**settings), num_classes=3, num_queries=5, aux_loss=True)
    # Zero weights would hide errors of the queries: the model differs from its initialization.
    return randomize_norms(DETRsegm(detr) if masks else detr).eval()


def largest_difference(prepared, model, batch):
    with torch.no_grad():
        expected, outputs = model(batch), prepared(batch)
    return max(  # relative, except for masks of one pixel, which are zero up to rounding
        ((outputs[name] - expected[name]).abs().max() / (0.1 + expected[name].abs().max())).item()
        for name in outputs
    )


VARIANTS = {
    "R18": {"backbone": "resnet18"},
    "R50": {"backbone": "resnet50"},
    "R50-DC5": {"backbone": "resnet50", "dilation": True},
    "ResNeXt": {"backbone": "resnext50_32x4d"},
    "batch norm": {"norm": "batch"},
    "learned positions": {"positions": PositionEmbeddingLearned(8)},
    "pre-norm": {"normalize_before": True},
    "GELU": {"activation": "gelu"},
    "GLU": {"activation": "glu"},
    "no encoder": {"num_encoder_layers": 0},
    "last decoder layer": {"return_intermediate_dec": False},
    "masks": {"masks": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_are_the_same(variant):
    model = build(**VARIANTS[variant])
    assert largest_difference(optimize_for_inference(model), model, images(*SIZES)) < 1e-5


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (31, 2), (32, 32), (65, 33), (200, 17)])
def test_outputs_are_the_same_for_all_sizes(size):
    model = build(masks=True)
    prepared = optimize_for_inference(model)
    for batch in (images(size), images(size, size, (40, 50))):
        assert largest_difference(prepared, model, batch) < 1e-5


def test_input_without_padding():
    model = build()
    prepared = optimize_for_inference(model)
    assert largest_difference(prepared, model, torch.stack(images((64, 96), (64, 96)))) < 1e-5


def test_an_image_of_padding_alone():
    model = build()
    batch = nested_tensor_from_tensor_list(images(*SIZES))
    batch.mask[1] = True
    assert largest_difference(optimize_for_inference(model), model, batch) < 1e-5


def test_float64():
    model = build(masks=True).double()
    batch = nested_tensor_from_tensor_list(images(*SIZES))
    batch = NestedTensor(batch.tensors.double(), batch.mask)
    assert largest_difference(optimize_for_inference(model), model, batch) < 1e-12


@pytest.mark.parametrize("has_amx", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(monkeypatch, dtype, has_amx):
    monkeypatch.setattr(fused_transformer, "has_amx", lambda: has_amx)
    model = build(masks=True)
    prepared = optimize_for_inference(model)
    batch = images(*SIZES)
    with torch.no_grad():
        expected = model(batch)
        with torch.autocast("cpu", dtype=dtype):
            plain, outputs = model(batch), prepared(batch)
    for name in outputs:
        error = (outputs[name] - expected[name]).abs().max()
        assert 0 < error < 2 * (plain[name] - expected[name]).abs().max() + 1e-2
        assert outputs[name].dtype == plain[name].dtype
    assert largest_difference(prepared, model, batch) < 1e-5  # float32 again, in the same model


def test_mixed_precision_of_tiny_images():
    model = build(backbone="resnet50")
    prepared, batch = optimize_for_inference(model), images((1, 1), (1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        assert largest_difference(prepared, model, batch) < 0.05


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu(dtype):
    model = build(backbone="resnet50", masks=True).cuda()
    batch = [image.cuda() for image in images(*SIZES)]
    prepared = optimize_for_inference(model)
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        error = largest_difference(prepared, model, batch)
    assert error < (1e-3 if dtype == torch.float32 else 0.1)


def test_minimal_model():
    torch.manual_seed(0)
    model = randomize_norms(MinimalDETR(3, 16, 2, 1, 1)).eval()
    batch = torch.stack(images((64, 96)))
    assert largest_difference(optimize_for_inference(model), model, batch) < 1e-5


def test_auxiliary_outputs():
    model = build()
    batch = images(*SIZES)
    assert "aux_outputs" not in optimize_for_inference(model)(batch)
    with torch.no_grad():
        (expected,) = model(batch)["aux_outputs"]
        (outputs,) = optimize_for_inference(model, aux_outputs=True)(batch)["aux_outputs"]
    for name in expected:
        torch.testing.assert_close(outputs[name], expected[name], rtol=1e-4, atol=1e-5)


def test_the_original_does_not_change():
    model = build(norm="batch").train()
    state, modules = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    prepared = optimize_for_inference(model)
    prepared(images(*SIZES))
    assert all(m.training for m in model.modules()) and not prepared.training
    assert [type(m) for m in model.modules()] == modules
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.transformer.parameters())
    model(images(*SIZES))["pred_logits"].sum().backward()  # still trainable
    assert model.class_embed.weight.grad is not None


def test_parameters_are_shared():
    model = build()
    prepared = optimize_for_inference(model)
    assert isinstance(prepared, DETR)
    assert prepared.state_dict().keys() == model.state_dict().keys()
    for name, value in prepared.state_dict().items():
        assert value.data_ptr() == model.state_dict()[name].data_ptr()
    assert not any(p.requires_grad for p in prepared.parameters())


def test_outputs_are_ordinary_tensors():
    outputs = optimize_for_inference(build())(images(*SIZES))
    boxes = outputs["pred_boxes"]
    assert not boxes.requires_grad and not boxes.is_inference()
    boxes.mul_(2)  # fails for tensors of inference mode


def test_a_prepared_model_is_prepared_only_once():
    prepared = optimize_for_inference(build())
    assert optimize_for_inference(prepared) is prepared


def test_a_compiled_model():
    model = build()
    compiled = torch.compile(model, backend="eager")
    assert largest_difference(optimize_for_inference(compiled), model, images(*SIZES)) < 1e-5
    model.compile(backend="eager")
    prepared = optimize_for_inference(model)
    assert prepared._compiled_call_impl is None
    prepared(images(*SIZES))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.train(), "cannot be trained"),
        (lambda model: model.load_state_dict({}), "cannot load weights"),
        (lambda model: model.double(), "cannot be moved or converted"),
        (lambda model: model.to("meta"), "cannot be moved or converted"),
        (copy.deepcopy, "cannot be copied or pickled"),
        (lambda model: torch.save(model, io.BytesIO()), "cannot be copied or pickled"),
    ],
)
def test_changes_are_refused(change, message):
    prepared = optimize_for_inference(build())
    with pytest.raises(RuntimeError, match=f"{message}.* the original model, then optimize"):
        change(prepared)
    assert prepared.eval() is prepared.to("cpu").float() is prepared


def record(calls):
    return lambda module, inputs, output: calls.append(output)


def take_a_step(model):
    model.class_embed.bias.grad = torch.ones_like(model.class_embed.bias)
    torch.optim.AdamW([model.class_embed.bias], fused=True).step()


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.class_embed.bias.detach().add_(1),
        lambda model: model.load_state_dict(model.state_dict()),
        lambda model: model.backbone[0].body.bn1.running_mean.add_(1),  # folded
        take_a_step,
    ],
)
def test_a_change_of_the_weights_is_noticed(change):
    model = build()
    prepared = optimize_for_inference(model)
    prepared(images((64, 64)))
    change(model)
    with pytest.raises(RuntimeError, match=r"weights have changed .* optimize the model again"):
        prepared(images((64, 64)))


def test_a_step_leaves_the_graphs_of_other_parameters_valid():
    optimize_for_inference(build())
    stepped, other = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    loss = (other * other).sum()
    stepped.grad = torch.ones(3)
    torch.optim.AdamW([stepped, other]).step()
    loss.backward()
    assert torch.equal(other.grad, torch.full((3,), 2.0))


def test_hooks_of_the_attention_notebooks():
    model = build(backbone="resnet18")
    batch, recorded = images((70, 90)), []
    for network in (model, optimize_for_inference(model)):
        calls = []
        for module in (
            network.backbone[-2],
            network.transformer.encoder.layers[-1].self_attn,
            network.transformer.decoder.layers[-1].multihead_attn,
        ):
            module.register_forward_hook(record(calls))
        with torch.no_grad():
            network(batch)
        recorded.append(calls)
    (features, encoder, decoder), (fast_features, fast_encoder, fast_decoder) = recorded
    torch.testing.assert_close(
        fast_features["0"].tensors, features["0"].tensors, rtol=1e-4, atol=1e-4
    )
    assert torch.equal(fast_features["0"].mask, features["0"].mask)
    for fast, plain in ((fast_encoder, encoder), (fast_decoder, decoder)):
        assert fast[1].shape == plain[1].shape
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "path",
    [
        "backbone.0.body.conv1",
        "backbone.0.body.bn1",
        "backbone.0.body.layer1",
        "backbone.0.body.layer1.0",
        "backbone.0.body.layer2.0.downsample.0",
        "backbone.0.body.layer4.1.conv2",
        "input_proj",
        "transformer.encoder",
        "transformer.encoder.layers.0",
        "transformer.encoder.layers.1.linear1",
        "transformer.decoder.layers.0",
        "transformer.decoder.layers.1.norm3",
    ],
)
def test_hooks_receive_the_output_of_the_original(path):
    model = build(backbone="resnet18")
    batch, outputs = images(*SIZES), []
    for network in (model, optimize_for_inference(model)):
        calls = []
        network.get_submodule(path).register_forward_hook(record(calls))
        with torch.no_grad():
            network(batch)
        outputs.append(calls[0])
    # Both differ from float64 by up to 1.6e-5, in a feature map with values up to 9.
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=3e-5)


def test_hooks_before_a_layer():
    calls = []
    prepared = optimize_for_inference(build())
    attention = prepared.transformer.encoder.layers[0].self_attn
    attention.register_forward_pre_hook(lambda module, inputs: calls.append(module))
    prepared(images((40, 40)))
    assert calls == [attention]


def test_hooks_on_all_modules():
    calls = []
    prepared = optimize_for_inference(build(backbone="resnet18"))
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: calls.append(type(module))
    )
    try:
        prepared(images((40, 40)))
    finally:
        hook.remove()
    assert {nn.Conv2d, nn.LayerNorm, nn.ReLU} <= set(calls)


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_a_model_in_training(amp):
    model = build(backbone="resnet18", masks=True)
    batch, calls = images(*SIZES), []
    with torch.no_grad():
        expected = model(batch)["pred_boxes"]
    prepare_for_training(model, amp)
    prepared = optimize_for_inference(model)
    torch.testing.assert_close(prepared(batch)["pred_boxes"], expected, rtol=1e-4, atol=1e-5)
    block = prepared.detr.backbone[0].body.layer3[0]
    block.conv1.register_forward_hook(record(calls))
    torch.testing.assert_close(prepared(batch)["pred_boxes"], expected, rtol=1e-4, atol=1e-5)
    assert len(calls) == 1


class OwnBackbone(nn.Module):
    """A user's backbone, with a convolution, a norm in training mode and a shared module."""

    num_channels = 8

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 5, stride=4, padding=2)
        self.reflect = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.same = nn.Conv2d(8, 8, 3, padding="same")
        self.norm = nn.BatchNorm2d(8)
        self.again = self.norm

    def forward(self, batch):
        x = self.again(self.norm(self.same(self.reflect(self.first(batch.tensors)))))
        return {"0": NestedTensor(x, batch.mask[:, ::4, ::4][:, : x.shape[2], : x.shape[3]])}


def test_an_own_backbone_and_a_subclass():
    class WithSum(DETR):
        def predict(self, states):
            return {**super().predict(states), "sum": states.sum(0)}

    torch.manual_seed(0)
    transformer = Transformer(16, 2, 1, 2, 24, return_intermediate_dec=True)
    joiner = Joiner(OwnBackbone(), PositionEmbeddingSine(8, normalize=True))
    model = randomize_norms(WithSum(joiner, transformer, 3, 5)).eval()
    assert largest_difference(optimize_for_inference(model), model, images(*SIZES)) < 1e-5


class Adapted(nn.Linear):
    """A linear layer that does not compute the product with its weights alone, as with LoRA."""

    def forward(self, input):
        return 2 * super().forward(input)


def test_linear_layers_of_the_user():
    model = build()
    model.transformer.encoder.layers[0].linear1 = Adapted(16, 24)
    model.transformer.decoder.layers[1].linear2 = Adapted(24, 16)
    assert largest_difference(optimize_for_inference(model), model, images(*SIZES)) < 1e-5


def test_weights_that_a_hook_computes():
    model = build()
    prune.random_unstructured(model.input_proj, "weight", amount=0.5)
    with torch.no_grad():
        model.input_proj.weight_orig.mul_(2)  # the hook has not run since then
    assert largest_difference(optimize_for_inference(model), model, images(*SIZES)) < 1e-5


@pytest.mark.parametrize(
    "path",
    [
        "backbone.0.body.bn1",
        "backbone.0.body.layer1.0",
        "backbone.0.body.layer2.0.conv1",
        "input_proj",
        "transformer.encoder.layers.0",
        "transformer.decoder.layers.1.linear1",
    ],
)
def test_a_forward_pass_that_a_user_has_replaced(path):
    model = build()
    module = model.get_submodule(path)
    plain = module.forward
    module.forward = lambda *args, **options: 2 * plain(*args, **options)
    assert largest_difference(optimize_for_inference(model), model, images(*SIZES)) < 1e-5


class MeanOfLayers(Transformer):
    """A transformer that uses the outputs of all decoder layers."""

    def forward(self, *args):
        states, memory = super().forward(*args)
        return states.mean(0, keepdim=True), memory


def test_a_transformer_that_uses_all_decoder_layers():
    model = build()
    model.transformer.__class__ = MeanOfLayers
    model.aux_loss = False
    assert largest_difference(optimize_for_inference(model), model, images(*SIZES)) < 1e-5


class FirstLayer(nn.Module):
    """A model with a detector, of which it reads the first decoder layer."""

    def __init__(self, detr):
        super().__init__()
        self.detr = detr

    def forward(self, batch):
        features, positions = self.detr.backbone(nested_tensor_from_tensor_list(batch))
        return {"states": self.detr.decode(features[-1], positions[-1])[0][0]}


def test_a_model_that_uses_another_decoder_layer():
    model = FirstLayer(build()).eval()
    assert largest_difference(optimize_for_inference(model), model, images(*SIZES)) < 1e-5


def test_scripting_the_original_after_preparing_it():
    model = build_segmenter().eval()
    optimize_for_inference(model)(images((40, 50)))
    with pytest.warns(DeprecationWarning):
        scripted = torch.jit.script(model)
    assert optimize_for_inference(scripted) is scripted
    batch = nested_tensor_from_tensor_list(images((40, 50)))
    with torch.no_grad():
        torch.testing.assert_close(scripted(batch)["pred_boxes"], model(batch)["pred_boxes"])

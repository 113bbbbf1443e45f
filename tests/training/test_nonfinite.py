"""Steps that are not finite: they never reach the weights, and are explained."""

import copy
import math

import pytest
import torch
from torch import nn

from engine import train_one_epoch
from models.criterion import SetCriterion
from tests.drawn_data import drawn_data
from tests.test_engine import CPU, batch, build
from tests.test_main import assert_one_line, read_checkpoint, read_log
from tests.test_main import run_simple as run
from training import network
from training import nonfinite as replay
from training.network import prepare_for_training
from util.errors import DivergenceError
from util.optimizer import build_optimizer
from util.reproducibility.random_state import random_state
from util.step_watch import StepRecord, StepWatch


class BadGradient(torch.autograd.Function):
    """Passes values on, and breaks their gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


def break_images(model):
    pass  # the batch is broken, not the model


def break_layer(model):
    layer = model.transformer.decoder.layers[1].linear1
    layer.register_forward_hook(lambda module, inputs, output: output * math.nan)


def break_gradient(model):
    model.class_embed.register_forward_hook(lambda module, i, output: BadGradient.apply(output))


def batch_with_masks(seed):
    samples, targets = batch(seed)
    for image, target in zip(samples.tensors, targets, strict=True):
        target["masks"] = torch.ones(len(target["labels"]), *image.shape[-2:], dtype=torch.uint8)
    return samples, targets


def epoch_with_a_bad_step(break_model, norm="frozen"):
    """Train a good step and a bad one; returns all that could have changed, and the records."""
    torch.manual_seed(0)
    model, criterion, _ = build()
    if norm == "batch":
        model.backbone[0].body.bn1 = nn.BatchNorm2d(64)
    optimizer = build_optimizer(model, 1e-3, 1e-3, 1e-4)
    records = []
    watch = StepWatch(CPU, records.extend)
    train_one_epoch(model, criterion, [batch(1)], optimizer, CPU, 0, watch=watch)
    before = copy.deepcopy([*model.parameters(), *model.buffers()])
    moments = copy.deepcopy(optimizer.state_dict()["state"])
    broken, targets = batch(2)
    if break_model is break_images:
        broken.tensors[0, 0, 3, 3] = math.nan
    break_model(model)
    stats = train_one_epoch(model, criterion, [(broken, targets)], optimizer, CPU, 0, watch=watch)
    return model, criterion, optimizer, before, moments, records, stats


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize("break_model", [break_images, break_layer, break_gradient])
def test_a_bad_step_changes_nothing(break_model, norm):
    model, _, optimizer, before, moments, records, stats = epoch_with_a_bad_step(break_model, norm)
    assert len(records) == 1 and records[0].step == 0
    after = [*model.parameters(), *model.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    state = optimizer.state_dict()["state"]
    assert all(torch.equal(state[i][n], moments[i][n]) for i in moments for n in moments[i])
    assert math.isnan(stats["loss"])  # no observation


@pytest.mark.parametrize(
    ("break_model", "words"),
    [
        (break_images, "the input images"),
        (break_layer, "transformer.decoder.layers.1.linear1 (Linear)"),
        (break_gradient, "class_embed"),
    ],
)
def test_the_cause_is_found(break_model, words):
    model, criterion, _, _, _, (record,), _ = epoch_with_a_bad_step(break_model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = replay.examine(model, criterion, record, "off")
    assert words in found
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert replay.describe(record, found).startswith("epoch 0, step 0, images 20, 21: ")


def test_of_the_batches_of_a_step_the_one_with_a_cause_is_found():
    model, criterion, _, _, _, (broken,), _ = epoch_with_a_bad_step(break_images)
    fine = broken._replace(samples=batch(3)[0], targets=batch(3)[1])
    record, found = replay.find_cause(model, criterion, [fine, broken, fine], "off")
    assert record is broken and "the input images" in found
    record, found = replay.find_cause(model, criterion, [fine, fine], "off")
    assert record is fine and found == replay.NOTHING_FOUND


@pytest.mark.parametrize("flags", ["", "--masks"], ids=["boxes", "masks"])
@pytest.mark.parametrize("dropout", [0, 0.1])
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_the_replay_has_the_losses_of_the_step_to_the_last_bit(amp, dropout, flags):
    model, criterion, _ = build(f"--dropout {dropout} {flags}")
    prepare_for_training(model, amp)
    break_gradient(model.detr if flags else model)
    losses = []
    criterion.register_forward_hook(lambda module, inputs, output: losses.append(output))
    records = []
    optimizer = build_optimizer(model, 1e-3, 1e-3, 1e-4)
    watch = StepWatch(CPU, records.extend)
    batches = [batch_with_masks(2)]
    train_one_epoch(model, criterion, batches, optimizer, CPU, 0, amp=amp, watch=watch)
    assert "the first non-finite gradient" in replay.examine(model, criterion, records[0], amp)
    first, again = losses
    assert first.keys() == again.keys() and ("loss_mask" in first) == bool(flags)
    for name, value in first.items():
        assert torch.equal(again[name], value), name
        assert torch.equal(again[name], records[0].losses[f"{name}_unscaled"]), name


def test_each_micro_batch_is_replayed_with_its_dropout_and_the_objects_of_all():
    model, criterion, _ = build("--dropout 0.1")
    break_gradient(model)
    losses = []
    criterion.register_forward_hook(lambda module, inputs, output: losses.append(output))
    records = []
    batches = [batch(2, counts=(4, 1)), batch(3, counts=(0, 1))]
    optimizer, watch = build_optimizer(model, 1e-3, 1e-3, 0), StepWatch(CPU, records.extend)
    train_one_epoch(model, criterion, batches, optimizer, CPU, 0, accum_steps=2, watch=watch)
    assert [record.num_boxes for record in records] == [3, 3]
    for record in records:
        assert "the first non-finite gradient" in replay.examine(model, criterion, record, "off")
    for step, again in zip(losses[:2], losses[2:], strict=True):
        assert all(torch.equal(again[name], value) for name, value in step.items())


def test_a_criterion_that_counts_objects_itself_is_replayed():
    class Infinite(nn.Module):
        weight_dict = {"loss_mean": 2.0}  # noqa: RUF012

        def forward(self, outputs, targets):
            return {"loss_mean": outputs["pred_boxes"].mean() * math.inf}

    model, _, _ = build()
    records = []
    optimizer, watch = build_optimizer(model, 1e-3, 1e-3, 0), StepWatch(CPU, records.extend)
    train_one_epoch(model, Infinite(), [batch(1)], optimizer, CPU, 0, watch=watch)
    assert "the losses loss_mean" in replay.examine(model, Infinite(), records[0], "off")


def test_attention_and_mask_head_are_named():
    model, criterion, _ = build("--masks")
    record = StepRecord(0, 0, *batch_with_masks(2), 3.0, {}, random_state())
    model.mask_head.lay3.weight.data[0] = math.nan
    found = replay.examine(model, criterion, record, "off")
    assert found.endswith("is mask_head.lay3 (Conv2d)")
    model.detr.transformer.decoder.layers[1].multihead_attn.out_proj.bias.data[0] = math.nan
    found = replay.examine(model, criterion, record, "off")
    assert found.endswith("is detr.transformer.decoder.layers.1.multihead_attn (Attention)")


def test_losses_that_are_not_finite_are_named():
    model, criterion, _, _, _, (record,), _ = epoch_with_a_bad_step(break_gradient)
    criterion.weight_dict = {**criterion.weight_dict}
    healthy, _, _ = build()
    healthy.load_state_dict(model.state_dict())
    forward = criterion.forward
    criterion.forward = lambda *a: {**forward(*a), "loss_giou": torch.tensor(math.inf)}
    assert "losses loss_giou" in replay.examine(healthy, criterion, record, "off")


def test_an_optimizer_that_is_not_fused_is_masked_too():
    model, criterion, _ = build()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = copy.deepcopy(list(model.parameters()))
    samples, targets = batch(2)
    samples.tensors[:] = math.nan
    with pytest.raises(DivergenceError, match="the update was not applied"):
        train_one_epoch(model, criterion, [(samples, targets)], optimizer, CPU, 0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


# ---- from the command line

data = drawn_data(num_train=6, num_val=2)


@pytest.fixture
def broken_decoder(monkeypatch):
    """From its third step on the decoder gives NaN."""
    build_network = network.build_network

    def broken(*args):
        model, criterion, postprocessors = build_network(*args)
        calls = []

        def hook(module, inputs, output):
            if module.training:
                calls.append(1)
            return output * math.nan if module.training and len(calls) >= 3 else output

        model.transformer.decoder.layers[0].norm1.register_forward_hook(hook)
        return model, criterion, postprocessors

    monkeypatch.setattr(network, "build_network", broken)


@pytest.mark.usefixtures("broken_decoder")
def test_a_run_ends_with_epoch_step_images_layer_and_a_dump(data, tmp_path, capsys):
    assert run(data, "--epochs", "1", "--output_dir", tmp_path) == 1
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and "epoch 0, step 2, images 100" in error
    assert "transformer.decoder.layers.0.norm1 (LayerNorm)" in error
    dump = tmp_path / "bad_step.pth"
    assert f"python forensics.py {dump}" in error
    content = read_checkpoint(dump)
    assert "optimizer" not in content and content["step"] == 2
    # The hook is not in the file: replayed, the step is finite.
    assert replay.run([str(dump)]) == 0
    assert "no non-finite value" in capsys.readouterr().out


FROZEN = ["--freeze_backbone_epochs", "1", "--backbone_norm", "batch"]


@pytest.mark.parametrize(
    "flags",
    [["--dropout", "0"], ["--masks"], FROZEN],
    ids=["no dropout", "masks", "frozen backbone"],
)
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_a_saved_step_has_the_same_losses_to_the_last_bit(data, tmp_path, monkeypatch, amp, flags):
    build_network = network.build_network

    def broken(*args):
        model, *rest = build_network(*args)
        break_gradient(getattr(model, "detr", model))
        return model, *rest

    losses = []
    compute = SetCriterion.forward

    def keep(*args):
        losses.append(compute(*args))
        return losses[-1]

    monkeypatch.setattr(network, "build_network", broken)
    monkeypatch.setattr(SetCriterion, "forward", keep)
    assert run(data, "--epochs", "1", "--amp", amp, *flags, "--output_dir", tmp_path) == 1
    dump = tmp_path / "bad_step.pth"
    recorded = read_checkpoint(dump)["losses"]
    assert replay.run([str(dump)]) == 0
    assert {f"{name}_unscaled" for name in losses[-1]} <= recorded.keys()
    for name, value in losses[-1].items():
        assert torch.equal(value, recorded[f"{name}_unscaled"]), name


@pytest.mark.usefixtures("broken_decoder")
def test_as_many_steps_as_allowed_are_left_out(data, tmp_path, capsys):
    flags = ["--epochs", "1", "--output_dir", tmp_path]
    assert run(data, *flags, "--max_skipped_steps", "1") == 0
    assert "(1 of --max_skipped_steps 1)" in capsys.readouterr().out
    (entry,) = read_log(tmp_path)
    assert entry["skipped_steps"] == 1 and math.isfinite(entry["train_loss"])


@pytest.mark.usefixtures("broken_decoder")
def test_a_step_of_deterministic_kernels_is_replayed_with_them(data, tmp_path, monkeypatch):
    seen = []
    find = replay.examine

    def examine(*args):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return find(*args)

    monkeypatch.setattr(replay, "examine", examine)
    try:
        run(data, "--epochs", "1", "--deterministic", "--output_dir", tmp_path)
        assert replay.run([str(tmp_path / "bad_step.pth")]) == 0
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen == [True, True]


def test_a_file_that_is_no_dump(data, tmp_path, capsys):
    torch.save({"model": {}}, tmp_path / "x.pth")
    assert replay.run([str(tmp_path / "x.pth")]) == 2
    assert "is not a bad_step.pth file" in capsys.readouterr().err


def test_one_broken_image_among_many(data, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for path in (data / "train2017").iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    sorted(images.iterdir())[2].write_bytes(b"lost")
    flags = ["--train_images", images, "--epochs", "2", "--output_dir", tmp_path / "out"]
    assert_one_line(capsys, run(data, *flags), "--skip_bad_images", "image id 100003")
    assert run(data, *flags, "--skip_bad_images", "1") == 0
    entries = read_log(tmp_path / "out")
    assert [len(entry["bad_images"]) for entry in entries] == [1, 1]
    assert "image id 100003" in entries[0]["bad_images"][0]


def test_weights_that_an_update_has_ruined_replace_no_checkpoint(data, tmp_path, capsys):
    assert run(data, "--epochs", "1", "--output_dir", tmp_path) == 0
    before = (tmp_path / "checkpoint.pth").read_bytes()
    huge = ["--lr", "1e38", "--lr_backbone", "1e38", "--save_every", "1", "--epochs", "2"]
    assert run(data, *huge, "--auto_resume", "--output_dir", tmp_path) == 1
    assert "training stopped: " in capsys.readouterr().err
    assert (tmp_path / "checkpoint.pth").read_bytes() == before

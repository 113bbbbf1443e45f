"""Training and evaluation steps: what they compute, and how rarely they wait for the device."""

import argparse
import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import engine
from engine import evaluate, forward_pass, train_one_epoch, weight_losses
from main import get_args_parser
from models import build_model
from models.matcher import HungarianMatcher
from tests.datasets.coco_cases import coco_of
from tests.narrow_resnet import SHALLOW
from util.errors import DivergenceError
from util.nested_tensor import nested_tensor_from_tensor_list
from util.optimizer import build_optimizer

CPU = torch.device("cpu")
TINY = (
    f"--backbone {SHALLOW} --backbone_weights none --hidden_dim 32 --nheads 4 --enc_layers 1 "
    "--dec_layers 2 --num_queries 6 --dim_feedforward 32 --num_classes 5 --dropout 0 --device cpu"
)


def build(flags=""):
    parser = argparse.ArgumentParser(parents=[get_args_parser()])
    torch.manual_seed(0)
    return build_model(parser.parse_args(f"{TINY} {flags}".split()))


def batch(seed, counts=(2, 1), size=48):
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(3, size, size + 16 * i, generator=generator) for i in range(len(counts))]
    targets = []
    for i, count in enumerate(counts):
        wh = torch.rand(count, 2, generator=generator) * 0.4 + 0.1
        centre = wh / 2 + torch.rand(count, 2, generator=generator) * (1 - wh)
        targets.append(
            {
                "boxes": torch.cat((centre, wh), 1),
                "labels": torch.randint(1, 5, (count,), generator=generator),
                "image_id": torch.tensor([10 * seed + i]),
                "orig_size": torch.tensor([200, 300]),
            }
        )
    return nested_tensor_from_tensor_list(images), targets


# ---- synchronisation


WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "item")


class CountWaits(TorchDispatchMode):
    """Counts operators whose result a GPU would have to hand to the host."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            getattr(index, "dtype", None) in (torch.bool, torch.uint8)
            for index in (args[1] if len(args) > 1 and isinstance(args[1], list) else ())
        )
        if name.startswith(WAITS) or name in ("_unique2", "unique_dim") or by_mask:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def waits_of_steps(monkeypatch, num_steps, **options):
    """Names of waiting operators after the first step (which prints), and matcher transfers."""
    model, criterion, _ = build()
    optimizer = build_optimizer(model, 1e-4, 1e-5, 1e-4)
    counter = CountWaits()
    transfers = []
    original = HungarianMatcher._costs_on_host

    def counted(self, *args):
        transfers.append(len(counter.names))
        return original(self, *args)

    monkeypatch.setattr(HungarianMatcher, "_costs_on_host", counted)
    seen = []

    def batches():
        for step in range(num_steps):
            seen.append(len(counter.names))
            yield batch(step)

    with counter:
        train_one_epoch(model, criterion, batches(), optimizer, CPU, 0, **options)
    return counter.names[seen[1] : seen[-1]], transfers


@pytest.mark.parametrize("max_norm", [0, 0.1])
def test_steps_wait_for_nothing_but_the_matching(monkeypatch, max_norm):
    # Lines are printed for steps 0 and 10: the eight steps between print nothing.
    names, transfers = waits_of_steps(monkeypatch, 10, max_norm=max_norm)
    assert names == []
    assert len(transfers) == 10


def test_the_counter_sees_waits():
    with CountWaits() as counter:
        x = torch.arange(4.0)
        x[x > 1]
        float(x.sum())
        x.nonzero()
    assert counter.names == ["index", "_local_scalar_dense", "nonzero"]


def test_a_step_transfers_costs_once(monkeypatch):
    calls = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: calls.append(self.shape) or cpu(self))
    model, criterion, _ = build()
    outputs = model(batch(0)[0])
    criterion(outputs, batch(0)[1])
    assert calls == [(2, 3, 6)]  # layers, objects, queries


# ---- training


def test_steps_equal_a_plain_loop():
    model, criterion, _ = build()
    reference, _, _ = build()
    batches = [batch(seed) for seed in range(3)]
    optimizer = build_optimizer(model, 1e-3, 1e-4, 1e-2)
    train_one_epoch(model, criterion, batches, optimizer, CPU, 0, max_norm=0.1)

    plain = build_optimizer(reference, 1e-3, 1e-4, 1e-2)
    reference.train()
    for samples, targets in batches:
        losses = criterion(reference(samples), targets)
        loss = sum(losses[k] * w for k, w in criterion.weight_dict.items())
        plain.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 0.1)
        plain.step()
    for (name, p), q in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6), name


def test_statistics_are_averages_of_the_steps():
    model, criterion, _ = build("--lr 0 --lr_backbone 0")
    batches = [batch(seed) for seed in range(3)]
    optimizer = build_optimizer(model, 0.0, 0.0, 0.0)
    stats = train_one_epoch(model, criterion, batches, optimizer, CPU, 0)
    expected = []
    for samples, targets in batches:
        losses = criterion(model(samples), targets)
        expected.append({k: float(v.detach()) for k, v in losses.items()})
    for name in expected[0]:
        mean = sum(losses[name] for losses in expected) / 3
        assert stats[f"{name}_unscaled"] == pytest.approx(mean, rel=1e-5)
        if name in criterion.weight_dict:
            assert stats[name] == pytest.approx(mean * criterion.weight_dict[name], rel=1e-5)
    total = sum(stats[name] for name in criterion.weight_dict)
    assert stats["loss"] == pytest.approx(total, rel=1e-5)


def test_a_batch_without_objects_does_not_count_in_class_error():
    model, criterion, _ = build()
    optimizer = build_optimizer(model, 0.0, 0.0, 0.0)
    with_objects, empty = batch(0), batch(1, counts=(0, 0))
    alone = train_one_epoch(model, criterion, [with_objects], optimizer, CPU, 0)
    mixed = train_one_epoch(model, criterion, [with_objects, empty, empty], optimizer, CPU, 0)
    assert mixed["class_error"] == pytest.approx(alone["class_error"], rel=1e-5)
    assert mixed["loss_bbox"] == pytest.approx(alone["loss_bbox"] / 3, rel=1e-4)
    none = train_one_epoch(model, criterion, [empty], optimizer, CPU, 0)
    assert math.isnan(none["class_error"]) and math.isfinite(none["loss"])


@pytest.mark.parametrize(
    ("amp", "dtype"), [("off", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_layers_run_in_the_precision_asked_for(amp, dtype):
    model, criterion, _ = build()
    seen = []
    layer = model.transformer.decoder.layers[0].linear1
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    optimizer = build_optimizer(model, 0.0, 0.0, 0.0)
    train_one_epoch(model, criterion, [batch(0)], optimizer, CPU, 0, amp=amp)
    assert seen == [dtype]


def test_bf16_trains_with_boxes_in_float32():
    model, criterion, _ = build()
    optimizer = build_optimizer(model, 1e-4, 1e-4, 0)
    stats = train_one_epoch(model, criterion, [batch(0)], optimizer, CPU, 0, 0.1, "bf16")
    assert math.isfinite(stats["loss"])
    outputs = forward_pass(model, batch(0)[0], CPU, "bf16")
    assert outputs["pred_boxes"].dtype == torch.float32


# ---- the weighted sum

FULL, EMPTY = [{"labels": torch.tensor([1])}], [{"labels": torch.tensor([], dtype=torch.int64)}]


def test_the_loss_is_the_weighted_sum_and_all_parts_are_logged():
    losses = {"loss_ce": torch.tensor(2.0), "error": torch.tensor(7.0), "loss_b": torch.tensor(3.0)}
    loss, log = weight_losses(losses, {"loss_b": 5.0, "loss_ce": 0.5, "loss_absent": 9.0}, FULL)
    assert float(loss) == 16
    assert {name: float(value) for name, value in log.items()} == {
        **{"loss": 16, "loss_ce": 1, "loss_b": 15},
        **{"loss_ce_unscaled": 2, "error_unscaled": 7, "loss_b_unscaled": 3},
    }


def test_without_objects_there_is_no_class_error():
    losses = {"loss_ce": torch.tensor(2.0), "class_error": torch.tensor(100.0)}
    _, log = weight_losses(losses, {"loss_ce": 1.0}, EMPTY)
    assert math.isnan(log["class_error"]) and math.isnan(log["class_error_unscaled"])
    assert float(weight_losses(losses, {"loss_ce": 1.0}, [*EMPTY, *FULL])[1]["class_error"]) == 100


# ---- micro-batches


class OwnCount(nn.Module):
    """A criterion with the original's arguments."""

    weight_dict = {"loss": 1.0}  # noqa: RUF012

    def forward(self, outputs, targets):
        return {"loss": outputs["pred_boxes"].mean()}


def test_accumulation_needs_a_criterion_that_takes_the_number_of_boxes():
    model, _, _ = build()
    optimizer = build_optimizer(model, 1e-3, 1e-3, 0)
    batches = [batch(seed) for seed in range(2)]
    train_one_epoch(model, OwnCount(), batches, optimizer, CPU, 0)
    with pytest.raises(ValueError, match="num_boxes"):
        train_one_epoch(model, OwnCount(), batches, optimizer, CPU, 0, accum_steps=2)


# ---- divergence


def test_predictions_that_are_not_finite_name_the_image():
    model, criterion, _ = build()
    optimizer = build_optimizer(model, 1e-4, 1e-4, 0)
    with torch.no_grad():
        model.class_embed.bias.fill_(math.nan)
    with pytest.raises(DivergenceError, match=r"epoch 4, step 0: .* of images 70, 71 "):
        train_one_epoch(model, criterion, [batch(7)], optimizer, CPU, 4)


@pytest.mark.parametrize("bad_step", [0, 1, 2])
def test_a_loss_that_is_not_finite_names_its_images(monkeypatch, bad_step):
    model, criterion, _ = build()
    optimizer = build_optimizer(model, 1e-4, 1e-4, 0)
    forward = type(criterion).forward
    steps = []

    def broken(self, outputs, targets):
        losses = forward(self, outputs, targets)
        steps.append(1)
        if len(steps) == bad_step + 1:
            losses["loss_giou"] = losses["loss_giou"] * math.inf
        return losses

    monkeypatch.setattr(type(criterion), "forward", broken)
    batches = [batch(seed) for seed in range(1, 4)]
    with pytest.raises(DivergenceError, match=f"images {10 * (bad_step + 1)}, "):
        train_one_epoch(model, criterion, batches, optimizer, CPU, 0)


# ---- evaluation


@pytest.fixture
def ground_truth():
    annotations = [
        {"id": i + 1, "image_id": i % 2 + 1, "category_id": 1, "bbox": [10, 20, 50, 60]}
        for i in range(3)
    ]
    return coco_of([{**a, "area": 3000.0, "iscrowd": 0} for a in annotations], num_images=2)


def evaluation_batch():
    samples, targets = batch(3)
    for image_id, target in enumerate(targets, start=1):
        target["image_id"] = torch.tensor([image_id])
    return samples, targets


def test_evaluation_reports_losses_and_twelve_numbers(ground_truth, tmp_path):
    model, criterion, postprocessors = build()
    model.train()
    data = [evaluation_batch()]
    stats, evaluator = evaluate(
        model, criterion, postprocessors, data, ground_truth, CPU, str(tmp_path)
    )
    assert not model.training and not criterion.training
    assert all(p.grad is None for p in model.parameters())
    assert len(stats["coco_eval_bbox"]) == 12 and "lr" not in stats
    losses = criterion(model(data[0][0]), data[0][1])
    assert stats["loss_ce_unscaled"] == pytest.approx(float(losses["loss_ce"].detach()), rel=1e-5)
    assert evaluator.img_ids == [1, 2]
    assert len(evaluator.detections("bbox")) == 2 * 6


def test_panoptic_maps_get_height_and_width_of_the_padded_batch(monkeypatch, ground_truth):
    maps = []
    monkeypatch.setattr(
        engine, "build_panoptic_evaluator", lambda *args: SimpleNamespace(update=maps.append)
    )
    monkeypatch.setattr(engine, "panoptic_maps", lambda post, outputs, targets, size: size)
    monkeypatch.setattr(engine, "panoptic_statistics", lambda evaluator: {})
    model, criterion, postprocessors = build()
    postprocessors["panoptic"] = None
    evaluate(model, criterion, postprocessors, [evaluation_batch()], ground_truth, CPU, "")
    assert maps == [(48, 64)]


def test_averages_of_an_evaluation_are_over_images(monkeypatch, ground_truth):
    model, criterion, postprocessors = build()
    monkeypatch.setattr(
        type(criterion), "forward", lambda self, _, targets: {"loss_ce": torch.tensor(len(targets))}
    )
    data = [evaluation_batch(), batch(4, counts=(1,))]
    data[1][1][0]["image_id"] = torch.tensor(2)
    stats, _ = evaluate(model, criterion, postprocessors, data, ground_truth, CPU, "")
    assert stats["loss_ce_unscaled"] == pytest.approx((2 * 2 + 1) / 3)


def test_evaluation_prepares_the_model_and_leaves_the_original_unchanged(monkeypatch, ground_truth):
    model, criterion, postprocessors = build()
    state = copy.deepcopy(model.state_dict())
    data = [evaluation_batch()]
    arguments = (criterion, postprocessors, data, ground_truth, CPU, "")
    stats, evaluator = evaluate(model, *arguments)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.transformer.parameters())
    monkeypatch.setattr(engine, "optimize_on_cpu", lambda model, aux_outputs: model)
    expected, plain = evaluate(model, *arguments)
    assert stats.keys() == expected.keys()  # with the losses of all decoder layers
    for name, value in expected.items():
        assert stats[name] == pytest.approx(value, rel=1e-4, abs=1e-5)
    for ours, theirs in zip(evaluator.detections("bbox"), plain.detections("bbox"), strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
        assert ours["bbox"] == pytest.approx(theirs["bbox"], abs=1e-2)  # pixels

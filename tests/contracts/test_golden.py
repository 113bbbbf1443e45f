"""Numbers that the original codebase gives for the same inputs and weights, in float64.

Inputs of the loss are in the file with the results. Images and weights of the model are made
here, from generators that are seeded by the name of what they fill.
"""

import argparse
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import main
from models import build_model
from models.criterion import SetCriterion
from models.matcher import HungarianMatcher

GOLDEN = Path(__file__).parent / "golden"
LOSS_WEIGHTS = {"loss_ce": 1, "loss_bbox": 5, "loss_giou": 2}


def generator(name):
    return np.random.RandomState(zlib.crc32(f"{name}#0".encode()))


# ---- loss


def load_outputs(golden, scene):
    layers = []
    for layer in ("last", 0, 1):
        tensors = {
            f"pred_{kind}": torch.from_numpy(golden[f"{scene}/{layer}/{kind}"]).requires_grad_()
            for kind in ("logits", "boxes")
        }
        layers.append(tensors)
    return {**layers[0], "aux_outputs": layers[1:]}


@pytest.mark.parametrize(("scene", "num_images"), [("mixed", 4), ("crowded", 3)])
def test_losses_and_gradients(scene, num_images):
    golden = np.load(GOLDEN / "criterion.npz")
    outputs = load_outputs(golden, scene)
    targets = [
        {k: torch.from_numpy(golden[f"{scene}/target{i}/{k}"]) for k in ("boxes", "labels")}
        for i in range(num_images)
    ]
    matcher = HungarianMatcher(1, 5, 2)
    criterion = SetCriterion(6, matcher, {}, 0.1, ["labels", "boxes", "cardinality"]).double()
    losses = criterion(outputs, targets)
    checked = 0
    for name, value in losses.items():
        if name.startswith("loss"):
            expected = golden[f"{scene}/expected/{name}"]
            assert value.detach().numpy() == pytest.approx(expected, rel=1e-9), name
            checked += 1
    assert checked == 9
    total = sum(v * LOSS_WEIGHTS[k.rstrip("_01")] for k, v in losses.items() if "loss" in k)
    total.backward()
    for kind in ("logits", "boxes"):
        gradient = outputs[f"pred_{kind}"].grad.numpy()
        assert np.allclose(gradient, golden[f"{scene}/expected/grad.{kind}"], atol=1e-9)


# ---- model


def weight(name, shape, is_norm):
    """A value for a state-dict entry: fan-in scaling for matrices, near one for scales."""
    random, leaf = generator(name), name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        return random.uniform(0.5, 1.5, shape)
    if leaf == "running_mean" or (len(shape) <= 1 and leaf != "weight"):
        return 0.1 * random.standard_normal(shape)
    if len(shape) <= 1:
        return random.uniform(0.5, 1.0 if is_norm else 1.5, shape)
    values = random.standard_normal(shape)
    if "embed.weight" in name and name.startswith(("query", "backbone.1")):
        return values
    gain = 2.0 if len(shape) == 4 else 1.0
    return values * np.sqrt(gain / np.prod(shape[1:]))


def test_model():
    golden = np.load(GOLDEN / "model.npz")
    flags = (
        "--hidden_dim 64 --nheads 4 --enc_layers 2 --dec_layers 3 --num_queries 12 "
        "--dim_feedforward 128 --device cpu --backbone resnet18 --backbone_weights none "
        "--position_embedding learned --pre_norm"
    )
    parser = argparse.ArgumentParser(parents=[main.get_args_parser()])
    model = build_model(parser.parse_args(flags.split()))[0].double().eval()
    state = model.state_dict()
    for name, value in state.items():
        is_norm = name.rsplit(".", 1)[0] + ".running_mean" in state
        value.copy_(torch.from_numpy(weight(name, tuple(value.shape), is_norm)))
    images = [
        torch.from_numpy(generator(f"m/{i}").standard_normal((3, *size)))
        for i, size in enumerate([(96, 128), (120, 70)])
    ]
    with torch.no_grad():
        outputs = model(images)
    assert np.allclose(outputs["pred_logits"], golden["logits"], rtol=0, atol=1e-9)
    assert np.allclose(outputs["pred_boxes"], golden["boxes"], rtol=0, atol=1e-9)
    first = outputs["aux_outputs"][0]["pred_boxes"]
    assert np.allclose(first, golden["aux0_boxes"], rtol=0, atol=1e-9)

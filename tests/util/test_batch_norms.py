"""Batch norms with frozen weights; what a skipped step restores is in test_nonfinite.py."""

from torch import nn

from util.batch_norms import keep_frozen_norms


def test_norms_with_frozen_weights_keep_their_statistics():
    model = nn.ModuleDict({"backbone": nn.BatchNorm2d(2), "head": nn.BatchNorm2d(2)})
    model["plain"] = nn.BatchNorm2d(2, affine=False)
    model["partly"] = nn.BatchNorm2d(2)
    model["partly"].bias.requires_grad_(False)
    model["backbone"].requires_grad_(False)
    model.train()
    keep_frozen_norms(model)
    assert {name: m.training for name, m in model.items()} == {
        "backbone": False,
        "head": True,
        "plain": True,
        "partly": True,
    }

"""Modules replaced by modules of subclasses keep what they hold."""

import copy
import gc
import pickle

import pytest
import torch
from torch import nn

from models.fast.replacement import replace_modules


class Doubled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


def replace_linears(model):
    replace_modules(model, lambda module: Doubled if type(module) is nn.Linear else None)


def model_and_input():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    return nn.ModuleDict({"first": inner, "second": inner[0]}), torch.randn(2, 3)


def test_children_are_replaced_everywhere_by_the_same_module():
    model, x = model_and_input()
    expected = 2 * model["second"](x)
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    relu, parameters, state = model["first"][1], list(model.parameters()), model.state_dict()
    replace_linears(model)
    new = model["second"]
    assert type(new) is Doubled and model["first"][0] is new and model["first"][1] is relu
    assert [name for name, _ in model.named_modules(remove_duplicate=False)] == names
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert model.state_dict().keys() == state.keys()
    for each in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(each["second"](x), expected)


def test_hooks_stay_and_can_be_removed():
    model, x = model_and_input()
    called = []
    handle = model["second"].register_forward_hook(lambda module, _, out: called.append(module))
    model["second"].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    expected = 2 * model["second"](x)
    replace_linears(model)
    assert torch.equal(model["second"](x), expected)
    handle.remove()
    model["second"](x)
    assert called[1:] == [model["second"]]


def test_hooks_before_loading_weights_are_registered_after_the_replacement():
    model, called = nn.Sequential(nn.Linear(3, 3)), []
    model[0].register_load_state_dict_pre_hook(lambda module, *_: called.append(module))
    replace_linears(model)
    gc.collect()
    with pytest.raises(RuntimeError, match="hook of a dead Module"):
        model.load_state_dict(model.state_dict())
    model = nn.Sequential(nn.Linear(3, 3))
    replace_linears(model)
    model[0].register_load_state_dict_pre_hook(lambda module, *_: called.append(module))
    model.load_state_dict(model.state_dict())
    assert called == [model[0]]


def test_missing_children_and_the_model_itself_stay():
    model = nn.Linear(3, 3)
    model.missing = None
    model.register_module("absent", None)
    replace_linears(model)
    assert type(model) is nn.Linear and model.absent is None

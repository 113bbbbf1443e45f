"""Where a training step stopped being finite: ``python forensics.py OUTPUT_DIR/bad_step.pth``."""

import copy
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import build_model
from models.criterion import SetCriterion
from models.fast.attention import Attention
from models.weights import load_model_state, model_state
from training.network import prepare_for_mixed_precision
from util.cli.command_line import ArgumentParser, run_command
from util.errors import UserError
from util.files.checkpoint import load_checkpoint, save_checkpoint
from util.nested_tensor import NestedTensor
from util.options import fill_in_new_flags
from util.random_state import set_random_state
from util.step_watch import StepRecord

NOTHING_FOUND = "done again, everything is finite: the fault is not in the numbers of this process"


def examine(model: nn.Module, criterion: SetCriterion, record: StepRecord, amp: str) -> str:
    """Do a step again, on a copy of the model, and say where its numbers stop being finite.

    Args:
        model: with the weights of that step; left as it is.
        criterion: gives the losses.
        record: the step.
        amp: as in `engine.train_one_epoch`.

    Returns:
        some words on the first of these that is not finite: the images, the output of a layer in
        the order of computation, losses, gradients of parameters.
    """
    if not record.samples.tensors.isfinite().all():
        return "the images themselves are not finite"
    model = copy.deepcopy(model).train()
    device = next(model.parameters()).device
    samples = record.samples.to(device)
    targets = [{name: value.to(device) for name, value in t.items()} for t in record.targets]
    criterion.train()
    set_random_state(record.random_state)
    layers: list[str] = []
    _watch_outputs(model, layers)
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    with torch.autocast(device.type, dtype=dtype, enabled=amp != "off"):
        outputs = model(samples)
    if layers:
        return f"the first layer with such an output is {layers[0]}"
    # Counted here: the other processes may not get so far.
    losses = criterion(outputs, targets, max(sum(len(t["labels"]) for t in targets), 1))
    if layers:  # the mask head runs in the criterion, for the matched queries
        return f"the first layer with such an output is {layers[0]}"
    bad = [name for name, value in losses.items() if not value.isfinite().all()]
    if bad:
        return f"all layers are finite, but not the losses {', '.join(bad)}"
    gradients: list[str] = []  # in the order of computation, backwards
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_noting_gradient(name, gradients))
    weights = criterion.weight_dict
    parts = [losses[name] * weights[name] for name in losses if name in weights]
    torch.stack(parts).sum().backward()
    if gradients:
        return f"losses are finite, but not the gradients: the first is that of {gradients[0]}"
    return NOTHING_FOUND


def explain(
    model: nn.Module, criterion: SetCriterion, records: Sequence[StepRecord], amp: str
) -> tuple[StepRecord, str]:
    """The first batch of a step in which `examine` finds a cause, and what it says of it.

    Where it finds none, the first batch stands for the step.
    """
    for record in records:
        found = examine(model, criterion, record, amp)
        if found != NOTHING_FOUND:
            return record, found
    return records[0], NOTHING_FOUND


def _watch_outputs(model: nn.Module, layers: list[str]) -> None:
    """Register hooks that append the name of each layer whose output is not finite.

    The hooks leave the outputs the same to the last bit.
    """
    for name, module in model.named_modules():
        hook = _noting(name or "model", layers)
        if isinstance(module, Attention):
            # For a hook that needs the weights another kernel would run than in the failed step.
            module.register_forward_hook(hook, needs_weights=False)
        else:
            module.register_forward_hook(hook)


def _noting(name: str, layers: list[str]) -> Any:
    """A hook that adds the name of its layer where a tensor of the output is not finite."""

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if any(not one.isfinite().all() for one in _floats(output)):
            layers.append(f"{name} ({type(module).__name__})")

    return note


def _noting_gradient(name: str, gradients: list[str]) -> Any:
    """A hook that adds the name of its parameter where the gradient is not finite."""

    def note(parameter: Tensor) -> None:
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            gradients.append(name)

    return note


def _floats(output: Any) -> list[Tensor]:
    """The tensors of floating point in an output of any structure."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, NestedTensor):
        return [output.tensors]
    if isinstance(output, dict):
        return [tensor for value in output.values() for tensor in _floats(value)]
    if isinstance(output, list | tuple):
        return [tensor for value in output for tensor in _floats(value)]
    return []


def describe(record: StepRecord, explanation: str) -> str:
    """A step and what is known of it, in one line."""
    images = ", ".join(map(str, record.image_ids()))
    terms = [name for name, value in record.losses.items() if not value.isfinite().all()]
    terms = [name for name in terms if name.startswith("loss") and "unscaled" not in name]
    found = f"losses that are not finite: {', '.join(terms)}; " if terms else ""
    return f"epoch {record.epoch}, step {record.step}, images {images}: {found}{explanation}"


def save_step(path: Path, record: StepRecord, model: nn.Module, args: Namespace) -> None:
    """Write what `replay` needs: batch, random state, flags and weights, without the optimizer."""
    save_checkpoint(
        {
            "model": model.state_dict(),
            "args": vars(args),
            "epoch": record.epoch,
            "step": record.step,
            "samples": {"tensors": record.samples.tensors, "mask": record.samples.mask},
            "targets": [dict(target) for target in record.targets],
            "losses": record.losses,
            "random_state": record.random_state,
        },
        path,
    )


def replay(path: str) -> None:
    """Do a saved step again on the CPU and print what is found.

    Raises:
        UserError: the file is not one of `save_step`.
    """
    args, record, weights = _read_step(path)
    fill_in_new_flags(args)
    args.device, args.backbone_weights = "cpu", "none"
    model, criterion, _ = build_model(args)
    if args.amp != "off":
        prepare_for_mixed_precision(model)
    load_model_state(model, weights, path)
    print(describe(record, examine(model, criterion, record, args.amp)))


def _read_step(path: str) -> tuple[Namespace, StepRecord, dict[str, Tensor]]:
    """Flags, batch and weights of a file of `save_step`.

    Raises:
        UserError: it is none.
    """
    content = load_checkpoint(path)
    try:
        args = Namespace(**content["args"])
        samples = NestedTensor(content["samples"]["tensors"], content["samples"]["mask"])
        names = ("targets", "losses", "random_state")
        record = StepRecord(
            content["epoch"], content["step"], samples, *(content[name] for name in names)
        )
        describe(record, "")
        set_random_state(record.random_state)
    except Exception as err:  # whatever a foreign file holds in these places
        raise UserError(f"{path} is not a step that training has saved ({err})") from err
    return args, record, model_state(content, path)


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status, see `util.cli.command_line.run_command`."""
    parser = ArgumentParser("forensics.py", description="Do a saved training step again.")
    parser.add_argument("file", help="bad_step.pth of an output folder")
    args = parser.parse_args(argv)
    return run_command("forensics.py", lambda: replay(args.file))

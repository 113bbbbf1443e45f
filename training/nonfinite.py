"""Non-finite steps: skip up to ``--max_skipped_steps``, then find the cause and end the run.

`util.step_watch` detects such steps, and `util.optimizer.update_weights` masks their updates.
``python forensics.py OUTPUT_DIR/bad_step.pth`` replays a saved step.
"""

import copy
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine import compute_losses, forward_pass, weight_losses
from models import build_model
from models.criterion import SetCriterion
from models.fast.attention import WeightHooks
from models.weights import load_model_state, model_state
from training.checkpoint import TrainingState
from training.network import prepare_for_training
from util.batch_norms import keep_frozen_norms
from util.cli.command_line import ArgumentParser, run_command
from util.distributed.processes import all_gather, get_rank
from util.errors import DivergenceError, UserError
from util.files.checkpoint_file import load_checkpoint, save_checkpoint
from util.nested_tensor import NestedTensor
from util.optimizer import freeze_backbone
from util.options import fill_in_new_flags
from util.reproducibility.determinism import explained_refusals, make_deterministic
from util.reproducibility.random_state import set_random_state
from util.step_watch import StepRecord, image_names
from util.tensor_ops import to_device

DUMP = "bad_step.pth"
NOTHING_FOUND = "no non-finite value in the replay on this rank"
_OUT_OF_MEMORY = "not enough memory to replay the step during training"


@dataclass(frozen=True)
class NonFinitePolicy:
    """Counts non-finite steps; beyond a limit, looks for the cause and ends the run.

    Attributes:
        training: its model is replayed; ``skipped_steps`` of its progress is increased.
        folder: output folder in which `DUMP` is written; None: no folder.
        flags: all flags of the run by name. ``amp`` and ``max_skipped_steps`` are used here; all
            are saved in `DUMP`.
    """

    training: TrainingState
    criterion: SetCriterion
    folder: Path | None
    flags: Mapping[str, Any]

    def handle(self, records: Sequence[StepRecord]) -> None:
        """Count a non-finite step. Collective; call this before the weights change.

        Args:
            records: micro-batches of the step on this rank.

        Raises:
            DivergenceError: beyond ``--max_skipped_steps``; the message contains the cause, if it
                was found.
        """
        progress = self.training.progress
        progress.skipped_steps += 1
        allowed = self.flags["max_skipped_steps"]
        if progress.skipped_steps > allowed:
            raise DivergenceError(f"{self._explain(records)}; the update was not applied")
        images = ", ".join(all_gather(image_names(records)))
        print(
            f"epoch {records[0].epoch}, step {records[0].step}: non-finite loss or gradient, step "
            f"skipped ({progress.skipped_steps} of --max_skipped_steps {allowed}); images {images}"
        )

    def _explain(self, records: Sequence[StepRecord]) -> str:
        """Replay the step on all ranks, and return the message of the lowest rank with a cause.

        That rank, or rank 0 if none finds a cause, also writes `DUMP`.
        """
        model = self.training.model
        try:
            record, cause = find_cause(model, self.criterion, records, self.flags["amp"])
        except torch.OutOfMemoryError:
            record, cause = records[0], _OUT_OF_MEMORY
        message = describe(record, cause)
        gathered = all_gather((cause not in (NOTHING_FOUND, _OUT_OF_MEMORY), message))
        reporting_rank = next((rank for rank, (found, _) in enumerate(gathered) if found), 0)
        message = gathered[reporting_rank][1]
        if self.folder is None:
            return message
        dump = self.folder / DUMP
        if get_rank() == reporting_rank:
            try:
                save_step(dump, record, model, self.flags)
            except UserError as err:  # the file cannot be written: still report the cause
                return f"{message}; {err.one_line()}"
        return f"{message}; replay it with: python forensics.py {dump}"


def find_cause(
    model: nn.Module, criterion: SetCriterion, records: Sequence[StepRecord], amp: str
) -> tuple[StepRecord, str]:
    """Find the first micro-batch for which `examine` reports a cause.

    Args:
        model, criterion, amp: see `examine`.
        records: micro-batches of a step on this rank.

    Returns:
        the micro-batch and its cause; the first micro-batch and `NOTHING_FOUND` if there is none.
    """
    for record in records:
        cause = examine(model, criterion, record, amp)
        if cause != NOTHING_FOUND:
            return record, cause
    return records[0], NOTHING_FOUND


def examine(model: nn.Module, criterion: SetCriterion, record: StepRecord, amp: str) -> str:
    """Replay a micro-batch on a copy of the model, and describe the first non-finite value.

    Args:
        model: model with the weights of the step; not changed.
        amp: see `engine.train_one_epoch`.

    Returns:
        a description of the first non-finite value, checked in this order: images, layer outputs,
        losses, parameter gradients; `NOTHING_FOUND` if there is none.
    """
    if not record.samples.tensors.isfinite().all():
        return "the input images contain NaN or infinity"
    model = copy.deepcopy(model).train()
    keep_frozen_norms(model)
    criterion.train()
    device = next(model.parameters()).device
    samples, targets = to_device((record.samples, record.targets), device)
    set_random_state(record.random_state)
    layers: list[str] = []
    _watch_outputs(model, layers)
    outputs = forward_pass(model, samples, device, amp, targets)
    if layers:
        return f"the first layer with a non-finite output is {layers[0]}"
    losses = compute_losses(criterion, outputs, targets, record.num_boxes)
    if layers:  # the criterion runs the mask head, for the matched queries
        return f"the first layer with a non-finite output is {layers[0]}"
    nonfinite = [name for name, value in losses.items() if not value.isfinite().all()]
    if nonfinite:
        return f"all layers are finite, but not the losses {', '.join(nonfinite)}"
    gradients: list[str] = []
    _watch_gradients(model, gradients)
    weight_losses(losses, criterion.weight_dict, targets)[0].backward()
    if gradients:
        return f"losses are finite; the first non-finite gradient belongs to {gradients[0]}"
    return NOTHING_FOUND


def _watch_outputs(model: nn.Module, layers: list[str]) -> None:
    """Register hooks that append the name of each layer whose output is not finite.

    The hooks do not change the outputs.
    """
    for name, module in model.named_modules():
        hook = _output_hook(name or "model", layers)
        if isinstance(module, WeightHooks):
            # Otherwise the attention would run a different kernel than in the failed step.
            module.register_forward_hook(hook, needs_weights=False)
        else:
            module.register_forward_hook(hook)


def _output_hook(name: str, layers: list[str]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        """Forward hook: append the layer's name if its output is not finite."""
        if any(not tensor.isfinite().all() for tensor in _float_tensors(output)):
            layers.append(f"{name} ({type(module).__name__})")

    return hook


def _watch_gradients(model: nn.Module, parameters: list[str]) -> None:
    """Register hooks that append the name of each parameter whose gradient is not finite.

    Names are in the order of the backward pass.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_gradient_hook(name, parameters))


def _gradient_hook(name: str, parameters: list[str]) -> Callable[[Tensor], None]:
    def hook(parameter: Tensor) -> None:
        """Gradient hook: append the parameter's name if its gradient is not finite."""
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            parameters.append(name)

    return hook


def _float_tensors(output: Any) -> list[Tensor]:
    """Floating-point tensors in a nested output."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, NestedTensor):
        return [output.tensors]
    if isinstance(output, dict):
        return [tensor for value in output.values() for tensor in _float_tensors(value)]
    if isinstance(output, list | tuple):
        return [tensor for value in output for tensor in _float_tensors(value)]
    return []


def describe(record: StepRecord, cause: str) -> str:
    """One line with epoch, step, image ids, non-finite losses and the cause."""
    images = ", ".join(map(str, record.image_ids()))
    terms = [name for name, value in record.losses.items() if not value.isfinite().all()]
    terms = [name for name in terms if name.startswith("loss") and "unscaled" not in name]
    found = f"non-finite losses: {', '.join(terms)}; " if terms else ""
    return f"epoch {record.epoch}, step {record.step}, images {images}: {found}{cause}"


def save_step(path: Path, record: StepRecord, model: nn.Module, flags: Mapping[str, Any]) -> None:
    """Write a file for `_replay_file`.

    Args:
        record: micro-batch to replay.
        model: model with the weights of the step.

    Raises:
        UserError: if the file cannot be written.
    """
    content = record._asdict() | {
        "model": model.state_dict(),
        "args": dict(flags),
        "samples": {"tensors": record.samples.tensors, "mask": record.samples.mask},
        "targets": [dict(target) for target in record.targets],
    }
    save_checkpoint(content, path)


def _replay_file(path: str) -> None:
    """Print the cause of the non-finite step in a file of `save_step`."""
    args, record, weights = _read_step(path)
    fill_in_new_flags(args)
    args.device, args.backbone_weights = "cpu", "none"
    if args.deterministic:
        make_deterministic()
    model, criterion, _ = build_model(args)
    prepare_for_training(model, args.amp)
    load_model_state(model, weights, path)
    if record.epoch < args.freeze_backbone_epochs:
        freeze_backbone(model)
    with explained_refusals():
        print(describe(record, examine(model, criterion, record, args.amp)))


def _read_step(path: str) -> tuple[Namespace, StepRecord, dict[str, Tensor]]:
    """Read flags, record and weights from a file written by `save_step`."""
    content = load_checkpoint(path)
    try:
        args = Namespace(**content["args"])
        record = StepRecord(**{name: content[name] for name in StepRecord._fields})
        samples = NestedTensor(content["samples"]["tensors"], content["samples"]["mask"])
        record = record._replace(samples=samples)
        describe(record, "")
        float(record.num_boxes)
        set_random_state(record.random_state)
    except Exception as err:  # other files may contain any values under these keys
        raise UserError(f"{path} is not a bad_step.pth file written by training ({err})") from err
    return args, record, model_state(content, path)


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command ``forensics.py``; see `util.cli.command_line.run_command`."""
    parser = ArgumentParser("forensics.py", description="Replay a non-finite training step.")
    parser.add_argument("file", help="bad_step.pth of an output folder")
    args = parser.parse_args(argv)
    return run_command("forensics.py", lambda: _replay_file(args.file))

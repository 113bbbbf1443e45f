"""Train for one epoch, and evaluate."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from datasets.coco_eval import CocoEvaluator
from datasets.evaluation.batch_results import Targets, detections, panoptic_maps
from datasets.evaluation.result_formats import coco_statistics
from datasets.evaluation.voc_ap import voc_statistics
from datasets.panoptic_eval import build_panoptic_evaluator, panoptic_statistics
from models.criterion import SetCriterion
from models.fast.inference import optimize_on_cpu
from util.batch_norms import BatchNormBackup, keep_frozen_norms
from util.distributed.data_parallel import gradient_sync, mean_number_of_objects, without_ddp
from util.metric_logger import MetricLogger
from util.nested_tensor import NestedTensor
from util.optimizer import scaled_rates, update_weights
from util.reproducibility.random_state import random_state
from util.step_watch import StepRecord, StepWatch, reduce_step
from util.tensor_ops import to_device

PRINT_FREQ = 10
# "off": autocast is disabled, but needs a dtype that every device supports.
_AUTOCAST_DTYPES = {"off": torch.bfloat16, "bf16": torch.bfloat16, "fp16": torch.float16}

Target = dict[str, Tensor]
Batch = tuple[NestedTensor, Sequence[Target]]


@dataclass
class EpochContext:
    """Resume position in an epoch, and callbacks for each step.

    Attributes:
        steps_done: steps already trained before an interruption.
        meters: averages over these steps, from `util.metric_logger.MetricLogger.state_dict`.
        wants_to_stop: called in each step; if True on any rank, `StepWatch.stop_agreed` is set on
            all ranks one step later.
        after_step: called with the number of completed steps and the logger.
        lr_factor: called in each step; factor of its learning rates (warm-up, batch size).
    """

    steps_done: int = 0
    meters: dict[str, Any] = field(default_factory=dict)
    wants_to_stop: Callable[[], bool] = lambda: False
    after_step: Callable[[int, MetricLogger], None] = lambda steps_done, logger: None
    lr_factor: Callable[[], float] = lambda: 1.0


def train_one_epoch(
    model: nn.Module,
    criterion: SetCriterion,
    data_loader: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    epoch: int,
    max_norm: float = 0,
    amp: str = "off",
    *,
    accum_steps: int = 1,
    scaler: torch.amp.GradScaler | None = None,
    watch: StepWatch | None = None,
    context: EpochContext | None = None,
    logger: MetricLogger | None = None,
) -> dict[str, float]:
    """Train for one epoch. A non-finite step leaves the weights unchanged, see docs/code_tour.md.

    Args:
        model: wrapped in `DistributedDataParallel` if there are several processes.
        criterion: returns losses by name; their weights are in ``weight_dict``.
        data_loader: yields (images, targets), beginning after ``context.steps_done`` steps.
        max_norm: limit of the total gradient norm; 0: no clipping.
        amp: ``off``, or mixed precision of the model: ``bf16`` or ``fp16``.
        accum_steps: micro-batches per optimizer step; an incomplete last step is dropped.
        scaler: gradient scaler for ``fp16``.
        watch: handles non-finite steps; by default the first one raises `DivergenceError`.
        context: where a resumed epoch continues, learning-rate factor, and calls after each step.
        logger: prints the steps; by default as log lines.

    Returns:
        averages: ``lr``, ``class_error`` (percent), ``loss``, weighted losses, ``NAME_unscaled``.

    Raises:
        DivergenceError: if a loss or gradient is not finite and ``watch`` does not skip the step.
    """
    _set_to_training(model, criterion)
    scaler = scaler or torch.amp.GradScaler(device.type, enabled=False)
    watch = watch or StepWatch(device)
    context = context or EpochContext()
    logger = logger or MetricLogger(delimiter="  ")
    logger.show_latest(lr="{value:.6f}", class_error="{value:.2f}").load_state_dict(context.meters)
    norms = BatchNormBackup(model)
    first, header = context.steps_done, f"Epoch: [{epoch}]"
    steps = logger.log_every(Steps(data_loader, accum_steps), PRINT_FREQ, header, first=first)
    for step, (batches, _) in enumerate(steps, start=first):
        norms.save()
        optimizer.zero_grad()
        records = _compute_gradients(model, criterion, batches, device, amp, scaler, epoch, step)
        watch.read_flags()  # flags of the previous step, already on the host: no wait; may raise
        norm = _clip_gradients(model, optimizer, max_norm, scaler)
        log, is_nonfinite, stop = reduce_step(records, norm, context.wants_to_stop())
        with scaled_rates(optimizer, context.lr_factor()) as rates:
            update_weights(optimizer, scaler, skip=is_nonfinite)
        norms.restore(is_nonfinite)
        watch.send_flags(is_nonfinite, stop, records)
        logger.update(**log, lr=rates[0])
        context.after_step(step + 1, logger)
    watch.read_flags()
    return logger.finish()


class Steps:
    """Yields (batches, targets) of each optimizer step; an incomplete last step is dropped.

    The second item exists so that `MetricLogger` can count the images of a step.

    Args:
        batches: usually a data loader.
        accum_steps: batches per optimizer step.
    """

    def __init__(self, batches: Iterable[Batch], accum_steps: int) -> None:
        self._batches = batches
        self._accum_steps = accum_steps

    def __len__(self) -> int:
        return len(self._batches) // self._accum_steps  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[list[Batch], list[Target]]]:
        batches = iter(self._batches)
        while len(step := list(islice(batches, self._accum_steps))) == self._accum_steps:
            yield step, [target for _, targets in step for target in targets]


def _set_to_training(model: nn.Module, criterion: nn.Module) -> None:
    """Set training mode; batch norms with frozen weights stay in evaluation mode."""
    model.train()
    keep_frozen_norms(model)
    criterion.train()


def _compute_gradients(
    model: nn.Module,
    criterion: SetCriterion,
    batches: Sequence[Batch],
    device: torch.device,
    amp: str,
    scaler: torch.amp.GradScaler,
    epoch: int,
    step: int,
) -> list[StepRecord]:
    """Accumulate gradients averaged over micro-batches; return one record per micro-batch."""
    if len(batches) > 1 and not _takes_num_boxes(criterion):
        raise ValueError("accum_steps above 1 needs a criterion with a parameter num_boxes")
    num_objects = sum(len(t.get("labels", ())) for _, targets in batches for t in targets)
    num_boxes = mean_number_of_objects(num_objects, device, len(batches))
    records = []
    for number, batch in enumerate(batches, start=1):
        before = random_state()
        samples, targets = to_device(batch, device)  # normalizes and pads 8-bit images
        with gradient_sync(model, enabled=number == len(batches)):
            outputs = forward_pass(model, samples, device, amp, targets)
            losses = compute_losses(criterion, outputs, targets, num_boxes)
            loss, log = weight_losses(losses, criterion.weight_dict, targets)
            # `num_boxes` is the mean number of objects per micro-batch: average over micro-batches.
            scaler.scale(loss / len(batches)).backward()
        records.append(StepRecord(epoch, step, batch[0], batch[1], num_boxes, log, before))
    return records


def forward_pass(
    model: nn.Module, samples: NestedTensor, device: torch.device, amp: str, targets: Any = None
) -> Any:
    """Run the model, in mixed precision if ``amp`` is ``bf16`` or ``fp16``.

    In training a model with denoising (`models.anchor.detr`) also reads the targets.

    Computed in float32, in addition to what PyTorch's autocast chooses:

    - matching and losses, which run outside the model; but the mask head, which the criterion
      calls in training, keeps the precision of the model;
    - class and box heads (`models.detr`, `models.anchor.detr`, `models.anchor.decoder`);
    - attention in training on a CPU (`models.fast.attention`), with dropout only its scores and
      softmax; not the cross-attention of anchor queries;
    - frozen batch norms (`models.frozen_norm`); of folded ones only scale and shift.

    Raises:
        ValueError: if ``amp`` is not ``off``, ``bf16`` or ``fp16``.
    """
    if amp not in _AUTOCAST_DTYPES:
        raise ValueError(f"expected amp off, bf16 or fp16, got {amp!r}")
    with torch.autocast(device.type, dtype=_AUTOCAST_DTYPES[amp], enabled=amp != "off"):
        reads_targets = getattr(getattr(model, "module", model), "needs_targets", False)
        return model(samples, targets) if targets and reads_targets else model(samples)


def compute_losses(
    criterion: SetCriterion, outputs: Any, targets: Targets, num_boxes: Tensor | float
) -> dict[str, Tensor]:
    """Call the criterion, with ``num_boxes`` if it takes it; else it counts the objects itself."""
    if _takes_num_boxes(criterion):
        return criterion(outputs, targets, num_boxes)
    return criterion(outputs, targets)


def _takes_num_boxes(criterion: nn.Module) -> bool:
    return "num_boxes" in inspect.signature(criterion.forward).parameters


def weight_losses(
    losses: Mapping[str, Tensor], weights: Mapping[str, float], targets: Targets
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum of the losses, and all values to log.

    Args:
        losses: scalars by name; losses without a weight are only logged.
        targets: targets of the batch. Without objects ``class_error`` is NaN, which meters ignore.

    Returns:
        the sum; and by name ``loss``, weighted losses, ``class_error``, raw ``NAME_unscaled``.
    """
    names = [name for name in losses if name in weights]
    parts = torch.stack([losses[name] for name in names])
    factors = torch.tensor([weights[name] for name in names], dtype=parts.dtype)
    weighted = parts * to_device(factors, parts.device)  # one kernel for all
    loss = weighted.sum()
    log = {"loss": loss.detach(), **dict(zip(names, weighted.detach(), strict=True))}
    unscaled = {name: value.detach() for name, value in losses.items()}
    if "class_error" in unscaled:
        if not any(len(target["labels"]) for target in targets):
            unscaled["class_error"] = torch.full_like(unscaled["class_error"], math.nan)
        log["class_error"] = unscaled["class_error"]
    log.update({f"{name}_unscaled": value for name, value in unscaled.items()})
    return loss, log


def _clip_gradients(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    max_norm: float,
    scaler: torch.amp.GradScaler,
) -> Tensor:
    """Clip the gradients to a total norm of ``max_norm``, if that is not 0.

    Returns:
        gradient norm before clipping. With fp16 and a scale above 1: 0, so that an overflow does
        not count as a non-finite step; ``scaler`` handles it (skips the step, halves the scale).
    """
    scaler.unscale_(optimizer)
    trained = [p for p in model.parameters() if p.grad is not None]
    if max_norm > 0:
        norm = nn.utils.clip_grad_norm_(trained, max_norm).detach()
    else:
        norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    if scaler.is_enabled():
        norm = norm.masked_fill(scaler.scale(torch.ones_like(norm)) > 1, 0)
    return norm


@torch.no_grad()
def evaluate(
    model: nn.Module,
    criterion: SetCriterion,
    postprocessors: dict[str, nn.Module],
    data_loader: Iterable[Batch],
    base_ds: Any,
    device: torch.device,
    output_dir: Any,
    amp: str = "off",
    *,
    before_batch: Callable[[], None] = lambda: None,
    logger: MetricLogger | None = None,
    print_tables: bool = True,
) -> tuple[dict[str, Any], CocoEvaluator]:
    """Compute the losses and the COCO metrics of a dataset. Each rank evaluates its own images.

    Args:
        model: set to evaluation mode; on a CPU `optimize_on_cpu` prepares a copy.
        postprocessors: ``bbox``; with masks also ``segm``; for panoptic maps ``panoptic``.
        data_loader: yields (images, targets); for panoptic maps ``dataset`` is a `CocoPanoptic`.
        base_ds: ground truth of boxes and masks, a ``pycocotools.coco.COCO``.
        output_dir: panoptic maps are written to ``panoptic_eval`` in it, unless it is empty.
        before_batch: called before each batch; may raise to end the evaluation.
        logger: prints the steps; by default as log lines.
        print_tables: print the tables of COCO and panoptic metrics.

    Returns:
        the statistics, and the evaluator (with scores on rank 0 only). The statistics are those of
        `train_one_epoch` without ``lr``, averaged over images; the 12 COCO metrics as
        ``coco_eval_bbox`` and ``coco_eval_masks``; panoptic quality of all, thing and stuff classes
        as ``PQ_all``, ``PQ_th``, ``PQ_st``, each with ``pq``, ``sq``, ``rq`` in [0, 1] and ``n``
        classes; ``voc_ap50`` and ``voc_ap50_11point`` if objects have VOC's field ``difficult``.

    Raises:
        DivergenceError, UserError: if a prediction is not finite in a batch with, without objects.
    """
    model = optimize_on_cpu(without_ddp(model.eval()), aux_outputs=True)
    criterion.eval()
    logger = (logger or MetricLogger(delimiter="  ")).show_latest(class_error="{value:.2f}")
    kinds = tuple(k for k in ("segm", "bbox") if k in postprocessors)
    evaluator = CocoEvaluator(base_ds, kinds, print_tables=print_tables)
    panoptic = build_panoptic_evaluator(postprocessors, data_loader, output_dir, print_tables)
    for batch in logger.log_every(data_loader, PRINT_FREQ, "Test:"):
        before_batch()
        samples, targets = to_device(batch, device)
        outputs = forward_pass(model, samples, device, amp)
        _, log = weight_losses(criterion(outputs, targets), criterion.weight_dict, targets)
        for name, value in log.items():
            logger.meters[name].update(value, n=len(targets))
        evaluator.update(detections(postprocessors, outputs, targets))
        if panoptic is not None:
            size = (samples.tensors.shape[-2], samples.tensors.shape[-1])
            panoptic.update(panoptic_maps(postprocessors["panoptic"], outputs, targets, size))
    stats: dict[str, Any] = logger.finish()
    evaluator.synchronize_between_processes()
    evaluator.accumulate()
    evaluator.summarize()
    stats.update(coco_statistics(evaluator.coco_eval) | voc_statistics(evaluator, print_tables))
    stats.update(panoptic_statistics(panoptic))
    return stats, evaluator

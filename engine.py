"""One epoch of training, and one evaluation."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from datasets.coco_eval import CocoEvaluator
from datasets.panoptic_eval import PanopticEvaluator
from gradients import Batch, Gradients, Targets, predict, to_device
from models.criterion import SetCriterion
from util.accumulation import Steps
from util.distributed.gathering import broadcast_object, broadcast_tensors
from util.metric_logger import MetricLogger, SmoothedValue
from util.optimizer import NormGuard, batch_norms, clip, update
from util.step_log import reduce_logs, weigh
from util.step_watch import StepWatch

PRINT_FREQ = 10
PANOPTIC_FOLDER = "panoptic_eval"  # of a run's folder, with its segment maps


@dataclass
class EpochProgress:
    """Where to enter an epoch, and what to do after each of its steps.

    Attributes:
        steps_done: steps of the epoch that were done before, by a run that was interrupted.
        meters: their statistics, as `util.metric_logger.MetricLogger.state_dict` gave them.
        wants_to_stop: asked in each step; when it says so in any process, ``after_step`` finds the
            watch's ``stop_agreed`` set in all of them, one step later.
        after_step: called with the number of steps done, and the meters.
    """

    steps_done: int = 0
    meters: dict[str, Any] = field(default_factory=dict)
    wants_to_stop: Callable[[], bool] = lambda: False
    after_step: Callable[[int, MetricLogger], None] = lambda steps_done, logger: None


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
    progress: EpochProgress | None = None,
) -> dict[str, float]:
    """Train on every batch once.

    A step has ``accum_steps`` batches in each process, and updates the weights as if each were that
    of a process of its own: gradients are averaged over them, losses of matched pairs are divided
    by the mean number of objects of all of them. Batches that make no whole step are left out.

    The host waits for the device in one place of a step, the matching. Everything else that it
    wants to know is read when a line is printed. A step whose loss or gradient is not finite leaves
    the weights as they are.

    Args:
        model: takes a `NestedTensor`; left in training mode. Of several processes each has it in a
            `DistributedDataParallel`.
        criterion: gives losses by name, and has their weights in ``weight_dict``.
        data_loader: gives batches (images, targets), without those that ``progress`` has done.
        optimizer: of the model's parameters.
        device: where model and criterion are.
        epoch: its number, for the log.
        max_norm: largest norm of the gradient of all parameters together; 0: not clipped.
        amp: ``off``, or ``bf16`` or ``fp16`` to run the model, not the criterion, in mixed
            precision.
        accum_steps: batches of a step in each process.
        scaler: for ``fp16``: scales the loss, and skips steps whose gradients overflow.
        watch: is told of the steps; by default a step that is not finite ends the training.
        progress: where to begin and what to do after a step.

    Returns:
        averages over the epoch: ``lr``, ``class_error`` in percent, ``loss`` and its parts, and
        every part before weighting under its name with ``_unscaled``.

    Raises:
        DivergenceError: predictions, loss or gradients are no longer finite.
    """
    model.train()
    criterion.train()
    watch = watch or StepWatch(device)
    progress = progress or EpochProgress()
    logger = _make_logger(lr="{value:.6f}", class_error="{value:.2f}")
    logger.load_state_dict(progress.meters)
    norms = NormGuard(model)
    first = progress.steps_done
    steps = logger.log_every(
        Steps(data_loader, accum_steps), PRINT_FREQ, f"Epoch: [{epoch}]", first=first
    )
    gradients = Gradients(model, criterion, device, amp, scaler, watch)
    for step, (batches, _) in enumerate(steps, start=first):
        norms.remember()
        optimizer.zero_grad()
        records = gradients.compute(batches, epoch, step)
        norm = clip(model.parameters(), optimizer, max_norm, scaler)
        log, bad, stop = reduce_logs([r.losses for r in records], norm, progress.wants_to_stop())
        update(optimizer, bad, scaler)
        norms.take_back(bad)
        watch.record(bad, stop, records)
        logger.update(**log, lr=optimizer.param_groups[0]["lr"])
        progress.after_step(step + 1, logger)
    watch.settle()
    return _finish(logger)


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
    between_batches: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], CocoEvaluator]:
    """Compute losses and COCO metrics over a data set: boxes, masks and panoptic maps.

    Of several processes each evaluates its own share of the images, in as many batches as it has:
    they meet at the beginning and at the end. Losses are averages over images, where that of a
    batch stands for each of its images.

    Args:
        model: takes a `NestedTensor`; left in evaluation mode.
        criterion: as in `train_one_epoch`.
        postprocessors: by kind; ``bbox`` turns outputs into detections in original pixels,
            ``segm`` adds masks to them, ``panoptic`` makes panoptic maps.
        data_loader: gives batches (images, targets) with ``size``, ``orig_size`` and ``image_id``;
            for panoptic maps its ``dataset`` is a `datasets.coco_panoptic.CocoPanoptic`.
        base_ds: the ground truth of boxes and masks, a ``pycocotools.coco.COCO``.
        device: where model and criterion are.
        output_dir: panoptic maps are written to `PANOPTIC_FOLDER` in this folder; empty: nowhere.
        amp: as in `train_one_epoch`.
        between_batches: called before each batch; may raise to end it all.

    Returns:
        averages as of `train_one_epoch` (without ``lr``), the 12 COCO numbers under
        ``coco_eval_bbox`` and ``coco_eval_masks``, panoptic quality under ``PQ_all``, ``PQ_th``
        (things) and ``PQ_st`` (stuff), each a dict of ``pq``, ``sq``, ``rq`` in [0, 1] and ``n``
        classes, the same in all processes; and the evaluator, in the main process with all
        detections and precision curves.

    Raises:
        DivergenceError: predictions are not finite.
    """
    model.eval()
    model = _alone(model)
    criterion.eval()
    logger = _make_logger(class_error="{value:.2f}")
    evaluator = CocoEvaluator(base_ds, tuple(k for k in ("segm", "bbox") if k in postprocessors))
    panoptic = _panoptic_evaluator(postprocessors, data_loader, output_dir)
    batches = logger.log_every(data_loader, PRINT_FREQ, "Test:")
    for batch in batches:
        between_batches()
        samples, targets = to_device(batch, device)
        outputs = predict(model, samples, device, amp)
        _, log = weigh(criterion(outputs, targets), criterion.weight_dict, targets)
        for name, value in log.items():
            logger.meters[name].update(value, n=len(targets))
        evaluator.update(_detections(postprocessors, outputs, targets))
        if panoptic is not None:
            padded_size = (samples.tensors.shape[-2], samples.tensors.shape[-1])
            maps = _panoptic_maps(postprocessors["panoptic"], outputs, targets, padded_size)
            panoptic.update(maps)
    stats: dict[str, Any] = _finish(logger)
    evaluator.synchronize_between_processes()
    evaluator.accumulate()
    evaluator.summarize()
    for iou_type, name in (("bbox", "coco_eval_bbox"), ("segm", "coco_eval_masks")):
        if iou_type in postprocessors:
            stats[name] = evaluator.coco_eval[iou_type].stats.tolist()
    if panoptic is not None:
        stats.update(_panoptic_quality(panoptic))
    return stats, evaluator


def _detections(
    postprocessors: Mapping[str, nn.Module], outputs: Any, targets: Targets
) -> dict[int, dict[str, Tensor]]:
    """Boxes, and masks where there are any, in pixels of the original images, by image id."""
    original_sizes = _sizes(targets, "orig_size")
    results = postprocessors["bbox"](outputs, original_sizes)
    if "segm" in postprocessors:
        sizes = _sizes(targets, "size")
        results = postprocessors["segm"](results, outputs, original_sizes, sizes)
    return {int(t["image_id"]): result for t, result in zip(targets, results, strict=True)}


def _panoptic_evaluator(
    postprocessors: Mapping[str, nn.Module], data_loader: Any, output_dir: Any
) -> PanopticEvaluator | None:
    if "panoptic" not in postprocessors:
        return None
    dataset = data_loader.dataset
    folder = Path(output_dir) / PANOPTIC_FOLDER if output_dir else None
    return PanopticEvaluator(dataset.ann_file, dataset.ann_folder, output_dir=folder)


def _panoptic_maps(
    postprocessor: nn.Module, outputs: Any, targets: Targets, padded_size: tuple[int, int]
) -> list[dict[str, Any]]:
    """Panoptic maps at the size of the original images, named as COCO names them."""
    sizes, original_sizes = _sizes(targets, "size"), _sizes(targets, "orig_size")
    options = {"padded_size": padded_size} if _takes(postprocessor, "padded_size") else {}
    maps = postprocessor(outputs, sizes, original_sizes, **options)
    ids = [int(target["image_id"]) for target in targets]
    return [
        {"image_id": image_id, "file_name": f"{image_id:012d}.png", **panoptic_map}
        for image_id, panoptic_map in zip(ids, maps, strict=True)
    ]


def _takes(module: nn.Module, parameter: str) -> bool:
    """Whether ``forward`` has a parameter that the original's modules of this kind do not have."""
    return parameter in inspect.signature(module.forward).parameters


def _panoptic_quality(evaluator: PanopticEvaluator) -> dict[str, Any]:
    evaluator.synchronize_between_processes()
    quality: Any = broadcast_object(evaluator.summarize())
    return {"PQ_all": quality["All"], "PQ_th": quality["Things"], "PQ_st": quality["Stuff"]}


def _sizes(targets: Targets, name: str) -> Tensor:
    """Heights and widths (B, 2) of a batch."""
    return torch.stack([target[name] for target in targets])


def _make_logger(**latest_value_formats: str) -> MetricLogger:
    """A logger whose lines begin with the latest value of the named meters."""
    logger = MetricLogger(delimiter="  ")
    for name, fmt in latest_value_formats.items():
        logger.add_meter(name, SmoothedValue(window_size=1, fmt=fmt))
    return logger


def _finish(logger: MetricLogger) -> dict[str, float]:
    """Join the meters of all processes and return the averages by name."""
    logger.synchronize_between_processes()
    print("Averaged stats:", logger)
    return {name: meter.global_avg for name, meter in logger.meters.items()}


def _alone(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, with the running statistics of rank 0."""
    if isinstance(model, DistributedDataParallel):
        model = model.module
    broadcast_tensors(buffer for norm in batch_norms(model) for buffer in norm.buffers())
    return model

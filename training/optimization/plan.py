"""Plan of a training run by epoch: frozen backbone, batch size, warm-up and evaluation."""

import argparse
from dataclasses import dataclass, fields

from training.checkpoint import flags_in
from training.resume import Start
from util.distributed.processes import get_world_size

PUBLISHED_IMAGES_PER_STEP = 16  # 8 GPUs with 2 images each; the published --lr 1e-4 is for 16
# Smallest number known to work: configs/shapes.txt, with at most five objects per image.
STEPS_FROM_RANDOM = 2000
# For a new classification head on a trained detector.
STEPS_FROM_DETECTOR = 300
_COCO_STEPS = "1,100,000"  # shortest published schedule: 150 epochs, 118,287 images, 16 per step


@dataclass(frozen=True)
class TrainingPlan:
    """Plan of a run by epoch and step, from the flags of the same names.

    The backbone is frozen in the first ``freeze_backbone_epochs`` epochs. These epochs use the
    batch size ``freeze_batch_size`` if it is given.
    """

    epochs: int
    batch_size: int
    accum_steps: int
    freeze_backbone_epochs: int = 0
    freeze_batch_size: int | None = None
    warmup_steps: int = 0
    lr_scale_batch: bool = False
    eval_every: int = 1

    def freezes_backbone(self, epoch: int) -> bool:
        """Whether the backbone is frozen in an epoch, from 0."""
        return epoch < self.freeze_backbone_epochs

    def batch_size_in(self, epoch: int) -> int:
        """Images per batch and process in an epoch."""
        if self.freezes_backbone(epoch) and self.freeze_batch_size is not None:
            return self.freeze_batch_size
        return self.batch_size

    def images_per_step(self, epoch: int) -> int:
        """Images per optimizer step in an epoch, over all processes and micro-batches."""
        return self.batch_size_in(epoch) * self.accum_steps * get_world_size()

    def evaluates(self, epoch: int) -> bool:
        """Whether an evaluation follows an epoch: every ``eval_every`` epochs and the last one."""
        return (epoch + 1) % self.eval_every == 0 or epoch + 1 == self.epochs

    def lr_factor(self, epoch: int, step: int) -> float:
        """Factor by which the scheduled learning rates are multiplied: warm-up and batch size.

        Args:
            epoch: from 0.
            step: optimizer step of the run, from 0. Warm-up is linear: step 0 has the factor
                1 / ``warmup_steps``, step ``warmup_steps`` - 1 and later steps have 1.
        """
        factor = 1.0
        if step < self.warmup_steps:
            factor = (step + 1) / self.warmup_steps
        if self.lr_scale_batch:
            factor *= self.images_per_step(epoch) / PUBLISHED_IMAGES_PER_STEP
        return factor

    def num_steps(self, num_images: int) -> int:
        """Number of optimizer steps of the whole run with this number of training images."""
        return sum(num_images // self.images_per_step(epoch) for epoch in range(self.epochs))


def build_plan(args: argparse.Namespace) -> TrainingPlan:
    """Build the plan from the flags of the same names."""
    return TrainingPlan(**{field.name: getattr(args, field.name) for field in fields(TrainingPlan)})


def warn_of_few_steps(plan: TrainingPlan, num_images: int, start: Start) -> None:
    """Print a warning if a new run has fewer steps than its warm-up, or fewer than DETR needs.

    For the number of steps that are needed see `warning_of_few_steps`; with ``--frozen_weights``
    it is not known.
    """
    if start.resume is None and plan.warmup_steps > (planned := plan.num_steps(num_images)):
        print(
            f"Warning: --warmup_steps {plan.warmup_steps}: only {planned} optimizer steps are "
            "planned, so the learning rate never reaches --lr; use fewer warm-up steps"
        )
    if start.resume is None and start.frozen is None:
        warning = warning_of_few_steps(plan, num_images, start.finetune is not None)
        if warning is not None:
            print(warning)


def warn_of_random_positions(position_embedding: str, lr_backbone: float, start: Start) -> None:
    """Print a warning if learned position embeddings keep their random initial values.

    They belong to the parameter group of the backbone, as in the original.
    """
    if position_embedding != "learned" or lr_backbone:
        return
    loaded = start.resume or start.frozen or start.finetune
    if loaded is None or flags_in(loaded.content, loaded.path).get("position_embedding") == "sine":
        print(
            "Warning: --lr_backbone is also the learning rate of learned position embeddings: with "
            "--lr_backbone 0 they keep their random initial values"
        )


def warning_of_few_steps(plan: TrainingPlan, num_images: int, from_detector: bool) -> str | None:
    """A warning with the planned and the needed number of steps; None if there are enough.

    Args:
        from_detector: whether the run starts from the weights of a detector, not from a randomly
            initialized transformer.
    """
    planned = plan.num_steps(num_images)
    needed = STEPS_FROM_DETECTOR if from_detector else STEPS_FROM_RANDOM
    if planned >= needed:
        return None
    per_epoch = num_images // plan.images_per_step(plan.epochs - 1)
    epochs = plan.epochs + -(-(needed - planned) // per_epoch)
    start = f"Warning: only {planned} optimizer steps are planned (--epochs {plan.epochs}); "
    if from_detector:
        return (
            f"{start}a detector needs a few hundred to learn new classes: use --epochs {epochs} "
            "or more, or smaller batches"
        )
    return (
        f"{start}from random weights DETR needs {needed:,} on the synthetic shapes dataset and "
        f"{_COCO_STEPS} on COCO: use --epochs {epochs} or more, or start from a detector with "
        "--finetune"
    )

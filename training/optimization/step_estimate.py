"""Warn if a run has far fewer optimizer steps than DETR needs."""

from training.optimization.plan import TrainingPlan
from training.resume import Start

# Smallest number known to work: configs/shapes.txt, with at most five objects per image.
STEPS_FROM_RANDOM = 2000
# For a new classification head on a trained detector.
STEPS_FROM_DETECTOR = 300
_COCO_STEPS = "1,100,000"  # shortest published schedule: 150 epochs, 118,287 images, 16 per step


def warn_of_few_steps(plan: TrainingPlan, num_images: int, start: Start) -> None:
    """Print `warning_of_few_steps` for a run with new weights; not for ``--frozen_weights``.

    Args:
        plan: plan of the run.
        num_images: number of training images.
        start: the checkpoints.
    """
    if start.resume is None and start.frozen is None:
        warning = warning_of_few_steps(plan, num_images, start.finetune is not None)
        if warning is not None:
            print(warning)


def warning_of_few_steps(plan: TrainingPlan, num_images: int, from_detector: bool) -> str | None:
    """A warning with the planned and the needed number of steps; None if there are enough.

    Args:
        plan: plan of the run.
        num_images: number of training images.
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

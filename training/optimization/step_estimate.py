"""A warning where a run has far fewer optimizer steps than DETR needs."""

from training.optimization.plan import TrainingPlan

# The fewest steps that are known to work: configs/shapes.txt, with at most five objects per image.
STEPS_FROM_RANDOM = 2000
# A new class head on a trained detector.
STEPS_FROM_DETECTOR = 300
_COCO_STEPS = "1,100,000"  # shortest published schedule: 150 epochs, 118,287 images, 16 per step


def warning_of_few_steps(plan: TrainingPlan, num_images: int, from_detector: bool) -> str | None:
    """One line that names the planned and the needed number of steps; None if they are enough.

    Args:
        plan: of the run.
        num_images: images of the training set.
        from_detector: whether the run starts from the weights of a detector, not from a transformer
            with random weights.
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
            f"{start}a detector needs some hundreds to learn new classes: give --epochs {epochs} "
            "or more, or smaller batches"
        )
    return (
        f"{start}from random weights, drawn shapes take DETR {needed:,} and COCO {_COCO_STEPS}: "
        f"give --epochs {epochs} or more, or start from a detector with --finetune"
    )

"""A run of main.py: its data, model and optimizer, and what it does with them."""

import argparse
import datetime
import time
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from datasets import build_dataset, build_ground_truth
from datasets.coco import num_classes_for
from datasets.coco_eval import CocoEvaluator
from datasets.eval_explain import explain_missing_ap
from datasets.eval_report import per_class_table, serialisable_eval, write_detections
from datasets.images import read_image
from datasets.loaders import build_train_loader, build_val_loader
from datasets.panoptic_pictures import panoptic_samples
from engine import PANOPTIC_FOLDER, evaluate, train_one_epoch
from models import build_model
from models.segmentation import DETRsegm
from util.checkpoint import load_checkpoint
from util.distributed import is_main_process
from util.errors import UserError
from util.optimizer import build_lr_scheduler, build_optimizer
from util.run_folder import RunFolder
from util.visualize import save_detection_samples
from util.visualize_panoptic import save_panoptic_samples
from util.weights import finetune_model, load_frozen_weights, load_model_state, model_state


class Run:
    """Data, model and optimizer, restored from a checkpoint where the flags name one.

    Args:
        args: all flags; ``num_classes`` is filled in.

    Raises:
        UserError: a mistake in flags, files or data.
    """

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.device = torch.device(args.device)
        self.folder = RunFolder(args.output_dir)
        checkpoint = load_checkpoint(args.resume) if args.resume else None
        # What is resumed has the frozen weights in it.
        frozen = load_checkpoint(args.frozen_weights) if _is_frozen_fresh(args) else None
        _take_num_classes(args, "--resume", args.resume, checkpoint)
        _take_num_classes(args, "--frozen_weights", args.frozen_weights, frozen)
        self.val_set: Any = build_dataset("val", args)
        self.train_set: Any = None if args.eval else build_dataset("train", args)
        self.ground_truth = build_ground_truth(self.val_set, args)
        if args.num_classes is None:
            args.num_classes = _count_classes(args, self.val_set, self.train_set)
        self.model, self.criterion, self.postprocessors = build_model(args)
        self._tell_things_from_stuff()
        self.model.to(self.device)
        if args.amp != "off":
            # The layout that low-precision convolutions work in.
            nn.utils.convert_conv2d_weight_memory_format(self.model, torch.channels_last)
        self.num_parameters = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        print("number of params:", self.num_parameters)
        self.optimizer = build_optimizer(self.model, args.lr, args.lr_backbone, args.weight_decay)
        self.lr_scheduler = build_lr_scheduler(
            self.optimizer, args.lr_scheduler, args.epochs, args.lr_drop, args.lr_min
        )
        self._load_weights(checkpoint, frozen)
        self.parallel_model = _distribute(self.model, args)
        self.val_loader = build_val_loader(
            self.val_set,
            args.eval_batch_size or args.batch_size,
            args.num_workers,
            pin_memory=self.device.type == "cuda",
        )

    def _tell_things_from_stuff(self) -> None:
        """The annotation file knows it better than COCO's rule."""
        panoptic: Any = self.postprocessors.get("panoptic")
        if panoptic is not None:
            panoptic.is_thing_map.update(self.val_set.is_thing)
            panoptic.return_scores = True  # for the pictures

    def _load_weights(
        self, checkpoint: dict[str, Any] | None, frozen: dict[str, Any] | None
    ) -> None:
        args = self.args
        if args.finetune:
            state = model_state(load_checkpoint(args.finetune), args.finetune)
            print(finetune_model(self.model, state))
        if frozen is not None:
            assert isinstance(self.model, DETRsegm)  # check_flags has seen to it
            state = model_state(frozen, args.frozen_weights)
            load_frozen_weights(self.model, self.model.detr, state, args.frozen_weights)
        if checkpoint is not None:
            load_model_state(self.model, model_state(checkpoint, args.resume), args.resume)
            if not args.eval:
                self._resume_training(checkpoint)

    def _resume_training(self, checkpoint: dict[str, Any]) -> None:
        """Take optimizer, schedule and epoch from a checkpoint, where it has them."""
        args = self.args
        if not all(k in checkpoint for k in ("optimizer", "lr_scheduler", "epoch")):
            print(f"{args.resume} holds weights alone: training starts at epoch {args.start_epoch}")
            return
        try:
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            self.lr_scheduler.load_state_dict(checkpoint["lr_scheduler"])
        except (ValueError, KeyError) as err:
            raise UserError(
                f"--resume {args.resume}: its optimizer trains other parameters; give the same "
                f"--lr_backbone, --backbone_norm and --frozen_weights, or --finetune {args.resume}"
            ) from err
        args.start_epoch = checkpoint["epoch"] + 1
        rates = ", ".join(f"{group['lr']:g}" for group in self.optimizer.param_groups)
        print(
            f"Resuming with epoch {args.start_epoch}; learning rates ({rates}), their schedule and "
            "weight decay are those of the checkpoint, not of the command line"
        )

    def score(self) -> None:
        """Evaluate once, for ``--eval``."""
        _, evaluator = self._evaluate()
        self.folder.save_evaluation(serialisable_eval(evaluator.coco_eval["bbox"].eval))

    def train(self) -> None:
        """Train to the last epoch, evaluating after each."""
        args = self.args
        sampler, loader = build_train_loader(
            self.train_set, args.batch_size, args.num_workers, pin_memory=self.device.type == "cuda"
        )
        print("Start training")
        if args.start_epoch >= args.epochs:
            print(f"Nothing left to do: epoch {args.start_epoch} of --epochs {args.epochs} is done")
        started = time.monotonic()
        for epoch in range(args.start_epoch, args.epochs):
            if isinstance(sampler, DistributedSampler):
                sampler.set_epoch(epoch)
            train_stats = train_one_epoch(
                self.parallel_model,
                self.criterion,
                loader,
                self.optimizer,
                self.device,
                epoch,
                args.clip_max_norm,
                args.amp,
            )
            self.lr_scheduler.step()
            self.folder.save_checkpoint(self._state(epoch), epoch, args.lr_drop)
            test_stats, evaluator = self._evaluate()
            self.folder.append_log(
                {
                    **{f"train_{name}": value for name, value in train_stats.items()},
                    **{f"test_{name}": value for name, value in test_stats.items()},
                    "epoch": epoch,
                    "n_parameters": self.num_parameters,
                }
            )
            evaluation = serialisable_eval(evaluator.coco_eval["bbox"].eval)
            self.folder.save_epoch_evaluation(evaluation, epoch)
        print("Training time", datetime.timedelta(seconds=int(time.monotonic() - started)))

    def _state(self, epoch: int) -> dict[str, Any]:
        """What a checkpoint holds. A plain dict of flags, so that it loads without trust."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "epoch": epoch,
            "args": vars(self.args),
            "categories": self.val_set.categories,
        }

    def _evaluate(self) -> tuple[dict[str, Any], CocoEvaluator]:
        """Evaluate, and report in words, in pictures and as a file where asked for."""
        stats, evaluator = evaluate(
            self.parallel_model,
            self.criterion,
            self.postprocessors,
            self.val_loader,
            self.ground_truth,
            self.device,
            self.args.output_dir,
            self.args.amp,
        )
        for iou_type, score in evaluator.coco_eval.items():
            print(f"By class, {iou_type}:")
            print(per_class_table(score, self.val_set.categories))
        for reason in explain_missing_ap(evaluator):
            print(reason)
        if is_main_process():
            self._write_detections(evaluator)
        return stats, evaluator

    def _write_detections(self, evaluator: CocoEvaluator) -> None:
        masks = "segm" in evaluator.coco_eval
        detections = evaluator.detections("bbox")
        if masks:
            with_masks = evaluator.detections("segm")
            detections = [{**a, **b} for a, b in zip(detections, with_masks, strict=True)]
        if self.args.dump_detections:
            write_detections(detections, self.args.dump_detections)
        if self.folder.path is not None:
            picture = self.folder.path / "detections.png"
            save_detection_samples(
                self.ground_truth,
                detections,
                self.val_set.root,
                picture,
                read_image=read_image,
                masks=masks,
            )
            print(f"Detections beside ground truth: {picture}")
        if self.folder.path is not None and "panoptic" in self.postprocessors:
            picture = self.folder.path / "panoptic.png"
            samples = panoptic_samples(self.val_set, self.folder.path / PANOPTIC_FOLDER)
            save_panoptic_samples(samples, picture)
            print(f"Panoptic maps beside ground truth: {picture}")


def _is_frozen_fresh(args: argparse.Namespace) -> bool:
    return bool(args.frozen_weights) and not args.resume


def _take_num_classes(
    args: argparse.Namespace, flag: str, path: str, checkpoint: dict[str, Any] | None
) -> None:
    """The head in the checkpoint that ``flag`` names decides on the number of classes."""
    if checkpoint is None:
        return
    state = model_state(checkpoint, path)
    heads = [len(v) - 1 for k, v in state.items() if k.endswith("class_embed.bias")]
    if not heads:
        raise UserError(f"{flag} {path}: holds no DETR model (no class_embed)")
    if args.num_classes not in (None, heads[0]):
        raise UserError(
            f"--num_classes {args.num_classes}: the head in {path} has {heads[0]} classes; "
            f"to start from its other weights give --finetune {path} instead of {flag}"
        )
    args.num_classes = heads[0]


def _count_classes(args: argparse.Namespace, *datasets: Any) -> int:
    largest_id = max(dataset.largest_category_id for dataset in datasets if dataset is not None)
    return num_classes_for(args.dataset_file, largest_id)


def _distribute(model: nn.Module, args: argparse.Namespace) -> nn.Module:
    if not args.distributed:
        return model
    on_gpu = torch.device(args.device).type == "cuda"
    return DistributedDataParallel(model, device_ids=[args.gpu] if on_gpu else None)

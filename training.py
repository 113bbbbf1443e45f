"""A run of main.py: its data, model and optimizer, and what it does with them."""

import argparse
import datetime
import signal
import time
from collections.abc import Collection
from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import forensics
from datasets import build_dataset, build_ground_truth
from datasets.coco import num_classes_for
from datasets.coco_eval import CocoEvaluator
from datasets.eval_explain import explain_missing_ap
from datasets.eval_report import per_class_table, serialisable_eval, write_detections
from datasets.images import read_image
from datasets.loaders import TrainLoader, build_val_loader
from datasets.panoptic_pictures import panoptic_samples
from engine import PANOPTIC_FOLDER, EpochProgress, evaluate, train_one_epoch
from models import build_model
from models.segmentation import DETRsegm
from resume import apply_schedule, restore_optimizer, settle_flags
from run_state import RunState, validation_score
from util.checkpoint import load_checkpoint
from util.distributed import all_gather, get_world_size, is_main_process
from util.errors import DivergenceError, UserError
from util.metric_logger import MetricLogger
from util.optimizer import build_lr_scheduler, build_optimizer
from util.provenance import versions
from util.random_state import seeded
from util.run_folder import RunFolder
from util.signals import StopRequested, StopSignals
from util.step_watch import StepRecord, StepWatch
from util.visualize import save_detection_samples
from util.visualize_panoptic import save_panoptic_samples
from util.weights import finetune_model, load_frozen_weights, load_model_state, model_state


class Run:
    """Data, model and optimizer, restored from a checkpoint where the flags name one.

    Args:
        args: all flags; what is read from data or checkpoint is filled in.
        given: names of the flags that were given on the command line.

    Raises:
        UserError: a mistake in flags, files or data.
    """

    def __init__(self, args: argparse.Namespace, given: Collection[str] = ()):
        self.args = args
        self.device = torch.device(args.device)
        self.folder = RunFolder(args.output_dir, args.keep_last)
        self.state = RunState(epoch=args.start_epoch)
        self.signals = StopSignals()
        self.watch = StepWatch(self.device, self._on_bad_step)
        checkpoint = self._read_checkpoint()
        # What is resumed has the frozen weights in it.
        frozen = load_checkpoint(args.frozen_weights) if _is_frozen_fresh(args) else None
        _take_num_classes(args, "--resume", args.resume, checkpoint)
        _take_num_classes(args, "--frozen_weights", args.frozen_weights, frozen)
        self.val_set: Any = build_dataset("val", args)
        self.train_set: Any = None if args.eval else build_dataset("train", args)
        self.ground_truth = build_ground_truth(self.val_set, args)
        if args.num_classes is None:
            args.num_classes = _count_classes(args, self.val_set, self.train_set)
        self._build(checkpoint, given)
        self._load_weights(checkpoint, frozen)
        if checkpoint is not None and not args.eval:
            self._resume_training(checkpoint)
        self.parallel_model = _distribute(self.model, args)
        self.val_loader = build_val_loader(
            self.val_set,
            args.eval_batch_size or args.batch_size,
            args.num_workers,
            pin_memory=self.device.type == "cuda",
        )

    def _read_checkpoint(self) -> dict[str, Any] | None:
        """The one to continue, of ``--auto_resume`` or else of ``--resume``."""
        args = self.args
        if args.auto_resume and (newest := self.folder.load_newest()):
            args.resume, args.finetune = str(newest[0]), ""
            print(f"Continuing from {args.resume}")
            return newest[1]
        return load_checkpoint(args.resume) if args.resume else None

    def _build(self, checkpoint: dict[str, Any] | None, given: Collection[str]) -> None:
        """Model, criterion and optimizer, as flags and checkpoint say."""
        args = self.args
        if checkpoint is not None and not args.eval:
            for sentence in settle_flags(args, checkpoint, given):
                print(sentence)
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
        self.scaler = torch.amp.GradScaler(self.device.type) if args.amp == "fp16" else None

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

    def _resume_training(self, checkpoint: dict[str, Any]) -> None:
        """Go on where a checkpoint was written; from its weights alone where it holds no more."""
        args = self.args
        if not all(k in checkpoint for k in ("optimizer", "lr_scheduler", "epoch")):
            print(f"{args.resume} holds weights alone: training starts at epoch {args.start_epoch}")
            return
        restore_optimizer(self.optimizer, self.lr_scheduler, checkpoint, args.resume)
        if self.scaler is not None and checkpoint.get("scaler"):
            self.scaler.load_state_dict(checkpoint["scaler"])
        self.state = RunState.restored(checkpoint)
        args.start_epoch = self.state.epoch
        if apply_schedule(self.optimizer, self.lr_scheduler, args, self.state.epoch):
            print("Learning rates, their schedule and weight decay are now those of the flags")
        where = f"epoch {self.state.epoch}"
        if self.state.images_done:
            where += f", after {self.state.images_done} of its images"
        print(f"Resuming with {where}")
        if self.folder.holds(args.resume):
            self._take_scores_from_log()

    def _take_scores_from_log(self) -> None:
        """The log may know one epoch more than the checkpoint, whose evaluation came after it."""
        epoch = self.state.epoch
        for entry in self.folder.read_log():
            if entry["epoch"] < epoch:
                stats = {name.removeprefix("test_"): value for name, value in entry.items()}
                self.state.scores[entry["epoch"]] = validation_score(stats)
        self.folder.cut_log(epoch)
        if self.state.images_done == 0 and self.state.best_epoch == epoch - 1:
            self.folder.keep_as_best(self.args.resume)

    def score(self) -> None:
        """Evaluate once, for ``--eval``."""
        _, evaluator = self._evaluate()
        self.folder.save_evaluation(serialisable_eval(evaluator.coco_eval["bbox"].eval))

    def train(self) -> None:
        """Train to the last epoch, evaluating after each.

        Raises:
            DivergenceError: more steps than allowed were not finite.
            StopRequested: a signal came; what can be saved is saved.
        """
        args, state = self.args, self.state
        loader = TrainLoader(
            self.train_set,
            args.batch_size,
            args.num_workers,
            pin_memory=self.device.type == "cuda",
            seed=args.seed,
        )
        self.folder.sweep()
        print("Start training")
        if state.epoch >= args.epochs:
            print(f"Nothing left to do: epoch {state.epoch} of --epochs {args.epochs} is done")
        started = time.monotonic()
        with self.signals:
            if self._owes_an_evaluation():
                self._end_epoch()
            while state.epoch < args.epochs and not self._has_lost_patience():
                self._train_epoch(loader)
                self._end_epoch()
        print("Training time", datetime.timedelta(seconds=int(time.monotonic() - started)))

    def _owes_an_evaluation(self) -> bool:
        """Whether the run was interrupted between the end of an epoch and its line in the log."""
        state = self.state
        ended = state.images_done == 0 and state.train_stats is not None
        return ended and self.folder.holds(self.args.resume) and state.epoch - 1 not in state.scores

    def _has_lost_patience(self) -> bool:
        best, patience = self.state.best_epoch, self.args.patience
        if best is None or patience is None or self.state.epoch - 1 - best < patience:
            return False
        print(f"No better validation score since epoch {best}: ends by --patience {patience}")
        return True

    def _train_epoch(self, loader: TrainLoader) -> None:
        """Train one epoch, or what is left of it, and save a checkpoint."""
        args, state = self.args, self.state
        batch = state.images_done // self._images_a_step
        loader.start_at(state.epoch, batch)
        state.train_stats = train_one_epoch(
            self.parallel_model,
            self.criterion,
            loader,
            self.optimizer,
            self.device,
            state.epoch,
            args.clip_max_norm,
            args.amp,
            scaler=self.scaler,
            watch=self.watch,
            progress=EpochProgress(
                batch, state.meters, lambda: self.signals.received is not None, self._after_step
            ),
        )
        self.lr_scheduler.step()
        state.epoch, state.images_done, state.meters = state.epoch + 1, 0, {}
        self._save(state.epoch - 1)
        if self.watch.stop_agreed:
            self._stop()

    @property
    def _images_a_step(self) -> int:
        return self.args.batch_size * get_world_size()

    def _after_step(self, steps_done: int, logger: MetricLogger) -> None:
        """Save where the flags or a signal ask for it; in the latter case end the run."""
        state, every = self.state, self.args.save_every
        state.step += 1
        state.images_done = steps_done * self._images_a_step
        if not self.watch.stop_agreed and not (every and state.step % every == 0):
            return
        self.watch.settle()
        state.meters = logger.state_dict()
        if self.folder.path is not None:
            self._save(None)
        if self.watch.stop_agreed:
            self._stop()

    def _stop(self) -> NoReturn:
        signum = self.signals.received or signal.SIGTERM
        saved = "saved, continue with --auto_resume"
        raise StopRequested(
            signum,
            f"stopped by {signal.Signals(signum).name} in epoch {self.state.epoch}, after "
            f"{self.state.step} steps in all; "
            + (saved if self.folder.path is not None else "nothing is saved without --output_dir"),
        )

    def _on_bad_step(self, record: StepRecord) -> None:
        """Leave out a step that was not finite, or say what is known of it and end the run."""
        state, allowed = self.state, self.args.max_skipped_steps
        state.skipped_steps += 1
        images = ", ".join(map(str, record.image_ids()))
        if state.skipped_steps <= allowed:
            print(
                f"epoch {record.epoch}, step {record.step} was not finite and is left out, number "
                f"{state.skipped_steps} of --max_skipped_steps {allowed}; images {images}"
            )
            return
        found = forensics.examine(self.model, self.criterion, record, self.args.amp)
        message = forensics.describe(record, found)
        if self.folder.path is not None and is_main_process():
            dump = self.folder.path / "bad_step.pth"
            forensics.save_step(dump, record, self.model, self.args)
            message += f"; do it again with: python forensics.py {dump}"
        raise DivergenceError(f"{message}; the weights are those of before")

    def _save(self, epoch: int | None) -> None:
        """Write a checkpoint: plain values, so that it loads without trust."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "args": vars(self.args),
            "categories": self.val_set.categories,
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "versions": versions(),
            **self.state.gathered(),
        }
        self.folder.save_checkpoint(state, epoch, self.args.lr_drop)

    def _end_epoch(self) -> None:
        """Evaluate the epoch that is done, write it down, and keep the best."""
        state = self.state
        epoch = state.epoch - 1
        test_stats, evaluator = self._evaluate()
        self.folder.append_log(
            {
                **{f"train_{name}": value for name, value in (state.train_stats or {}).items()},
                **{f"test_{name}": value for name, value in test_stats.items()},
                "epoch": epoch,
                "n_parameters": self.num_parameters,
            }
        )
        evaluation = serialisable_eval(evaluator.coco_eval["bbox"].eval)
        self.folder.save_epoch_evaluation(evaluation, epoch)
        # PQ is known in the main process alone.
        state.scores[epoch] = all_gather(validation_score(test_stats))[0]
        if state.best_epoch == epoch:
            self.folder.keep_as_best()

    def _stop_evaluation(self) -> None:
        """Between two batches, where nothing is lost; several processes could not agree there."""
        if self.signals.received is not None and get_world_size() == 1:
            self._stop()

    def _evaluate(self) -> tuple[dict[str, Any], CocoEvaluator]:
        """Evaluate, and report in words, in pictures and as a file where asked for."""
        with seeded(self.args.seed % 2**32):  # training goes on as if there had been no evaluation
            stats, evaluator = evaluate(
                self.parallel_model,
                self.criterion,
                self.postprocessors,
                self.val_loader,
                self.ground_truth,
                self.device,
                self.args.output_dir,
                self.args.amp,
                between_batches=self._stop_evaluation,
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

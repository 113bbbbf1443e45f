"""A run of main.py: its data, model and optimizer, and what it does with them."""

import argparse
import contextlib
import datetime
import signal
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from torch import nn

from datasets import build_dataset, build_ground_truth, build_scales
from datasets.annotations.run_classes import classes_of_run
from datasets.coco_eval import CocoEvaluator
from datasets.evaluation.report import serialisable_eval, write_detections
from datasets.loading.bad_samples import refuse_too_many
from datasets.loading.loaders import TrainLoader, build_val_loader
from datasets.loading.worker_faults import explain_worker_fault
from engine import EpochProgress, evaluate, train_one_epoch
from models.weights import load_model_state, model_state
from training.averaging import AveragedModel
from training.bad_steps import BadSteps
from training.folder import RunFolder
from training.network import (
    build_network,
    count_classes,
    distribute,
    load_weights,
    require_same_data,
    require_same_flags,
    take_num_classes,
)
from training.reporting import all_detections, draw_detections, draw_panoptic_maps, report
from training.resume import (
    Start,
    apply_schedule,
    restore_optimizer,
    tell_other_versions,
)
from training.state import RunState, score_name, validation_score
from util.distributed.gathering import broadcast_object
from util.distributed.processes import all_gather, get_world_size, is_main_process
from util.errors import DivergenceError, UserError
from util.metric_logger import MetricLogger
from util.optimizer import build_lr_scheduler, build_optimizer
from util.provenance import versions
from util.random_state import seeded
from util.signals import StopRequested, StopSignals
from util.step_watch import StepWatch


class Run:
    """Data, model and optimizer, restored from a checkpoint where the flags name one.

    Args:
        args: all flags; what is read from data or checkpoint is filled in.
        start: the checkpoints that the flags name.

    Raises:
        UserError: a mistake in flags, files or data.
    """

    def __init__(self, args: argparse.Namespace, start: Start):
        self.args = args
        checkpoint = start.resume
        self.device = torch.device(args.device)
        self.folder = RunFolder(args.output_dir, args.keep_last)
        self.state = RunState(epoch=args.start_epoch)
        self.signals = StopSignals()
        take_num_classes(args, "--resume", args.resume, checkpoint)
        take_num_classes(args, "--frozen_weights", args.frozen_weights, start.frozen)
        require_same_flags(args)
        args.scales = build_scales(args)
        self.val_set: Any = build_dataset("val", args)
        self.train_set: Any = None if args.eval else build_dataset("train", args)
        require_same_data(training=self.train_set, validation=self.val_set)
        self.classes = classes_of_run(
            self.val_set, self.train_set, checkpoint, args.resume, args.skip_checks
        )
        self.ground_truth = build_ground_truth(self.val_set, args)
        if args.num_classes is None:
            args.num_classes = count_classes(args, self.val_set, self.train_set)
        self.model, self.criterion, self.postprocessors = build_network(args, self.classes.is_thing)
        self.num_parameters = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        print("number of params:", self.num_parameters)
        self.optimizer = build_optimizer(self.model, args.lr, args.lr_backbone, args.weight_decay)
        self.lr_scheduler = build_lr_scheduler(
            self.optimizer, args.lr_scheduler, args.epochs, args.lr_drop, args.lr_min
        )
        self.scaler = torch.amp.GradScaler(self.device.type) if args.amp == "fp16" else None
        load_weights(self.model, args, start)
        if checkpoint is not None and not args.eval:
            self._resume_training(checkpoint)
        self.parallel_model = distribute(self.model, args)
        bad_steps = BadSteps(args, self.model, self.criterion, self.folder.path)
        self.watch = StepWatch(self.device, lambda records: bad_steps.meet(records, self.state))
        # After `distribute`: a copy of the weights of rank 0.
        self.averaged = AveragedModel(self.model, args.ema_decay) if args.ema_decay else None
        if self.averaged is not None and checkpoint is not None and checkpoint.get("ema"):
            averages = model_state({"model": checkpoint["ema"]}, args.resume)
            load_model_state(self.averaged.module, averages, args.resume)
            self.averaged.num_updates = self.state.step
        self.val_loader = build_val_loader(
            self.val_set,
            args.eval_batch_size or args.batch_size,
            args.num_workers,
            pin_memory=self.device.type == "cuda",
            skip_bad_images=args.skip_bad_images,
            bad_images=self.state.bad_images,
        )

    def _resume_training(self, checkpoint: dict[str, Any]) -> None:
        """Go on where a checkpoint was written; from its weights alone where it holds no more."""
        args = self.args
        if not all(k in checkpoint for k in ("optimizer", "lr_scheduler", "epoch")):
            print(f"{args.resume} holds weights alone: training starts at epoch {args.start_epoch}")
            if self.folder.holds(args.resume):
                self.folder.go_back_to(args.start_epoch, 0)
            return
        restore_optimizer(self.optimizer, self.lr_scheduler, self.scaler, checkpoint, args.resume)
        tell_other_versions(checkpoint)
        self.state = RunState.restored(checkpoint)
        args.start_epoch = self.state.epoch
        if apply_schedule(self.optimizer, self.lr_scheduler, args, self.state.epoch):
            print("Learning rates, their schedule and weight decay are now those of the flags")
        where = f"epoch {self.state.epoch}"
        if self.state.images_done:
            where += f", after {self.state.images_done} of its images"
        print(f"Resuming with {where}")
        if broadcast_object(self.folder.holds(args.resume)):
            self.state.take_scores(self.folder.read_log())
            # They decide what all do next.
            scores = broadcast_object((self.state.scores, self.state.ema_scores))
            self.state.scores, self.state.ema_scores = scores
            self.folder.go_back_to(self.state.epoch, self.state.step)
            if self.state.images_done == 0 and self.state.best_epoch == self.state.epoch - 1:
                self.folder.keep_as_best(args.resume, self.state.best_weights)

    def score(self) -> None:
        """Evaluate once, for ``--eval``."""
        with self._explained_worker_faults():
            self._score()

    def _score(self) -> None:
        self._evaluate_averaged()
        _, evaluator = self._evaluate(self.parallel_model)
        if is_main_process():
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
            accum_steps=args.accum_steps,
            skip_bad_images=args.skip_bad_images,
            bad_images=state.bad_images,
        )
        if args.overwrite:
            self.folder.start_over()
        self.folder.sweep()
        print("Start training")
        if state.epoch >= args.epochs:
            print(f"Nothing left to do: epoch {state.epoch} of --epochs {args.epochs} is done")
        started = time.monotonic()
        with self.signals, self._explained_worker_faults():
            if self._owes_an_evaluation():
                self._end_epoch(args.resume)
            while state.epoch < args.epochs and not self._has_lost_patience():
                self._train_epoch(loader)
                self._end_epoch()
        print("Training time", datetime.timedelta(seconds=int(time.monotonic() - started)))

    def _owes_an_evaluation(self) -> bool:
        """Whether the run was interrupted between the end of an epoch and its line in the log."""
        state = self.state
        ended = state.images_done == 0 and state.train_stats is not None
        if not ended or state.epoch - 1 in state.scores:
            return False
        return broadcast_object(self.folder.holds(self.args.resume))

    def _has_lost_patience(self) -> bool:
        best, patience = self.state.best_epoch, self.args.patience
        if best is None or patience is None or self.state.epoch - 1 - best < patience:
            return False
        averaged = " (averaged weights)" if self.state.best_weights == "ema" else ""
        print(
            f"No better validation score since epoch {best}{averaged}: "
            f"ends by --patience {patience}"
        )
        return True

    def _train_epoch(self, loader: TrainLoader) -> None:
        """Train one epoch, or what is left of it, and save a checkpoint."""
        args, state = self.args, self.state
        steps_done = state.images_done // self._images_a_step
        loader.start_at(state.epoch, steps_done * args.accum_steps)
        state.train_stats = train_one_epoch(
            self.parallel_model,
            self.criterion,
            loader,
            self.optimizer,
            self.device,
            state.epoch,
            args.clip_max_norm,
            args.amp,
            accum_steps=args.accum_steps,
            scaler=self.scaler,
            watch=self.watch,
            progress=EpochProgress(
                steps_done,
                state.meters,
                lambda: self.signals.received is not None,
                self._after_step,
            ),
        )
        self.lr_scheduler.step()
        state.epoch, state.images_done, state.meters = state.epoch + 1, 0, {}
        self._save(state.epoch - 1)
        if self.watch.stop_agreed:
            self._stop()

    @property
    def _images_a_step(self) -> int:
        return self.args.batch_size * self.args.accum_steps * get_world_size()

    def _after_step(self, steps_done: int, logger: MetricLogger) -> None:
        """Save where the flags or a signal ask for it; in the latter case end the run."""
        state, every = self.state, self.args.save_every
        state.step += 1
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
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
        # Signals reach machines one after the other, and some processes not at all.
        told = [one for one in all_gather(self.signals.received) if one is not None]
        signum = signal.SIGUSR1 if signal.SIGUSR1 in told else told[0]
        saved = f"saved, continue with --output_dir {self.folder.path} --auto_resume"
        raise StopRequested(
            signum,
            f"stopped by {signal.Signals(signum).name} in epoch {self.state.epoch}, after "
            f"{self.state.step} steps in all; "
            + (saved if self.folder.path is not None else "nothing is saved without --output_dir"),
        )

    def _save(self, epoch: int | None) -> None:
        """Write a checkpoint: plain values, so that it loads without trust.

        Raises:
            DivergenceError: an update has overflowed; the checkpoint before stays.
        """
        if not nn.utils.get_total_norm(p.detach() for p in self.model.parameters()).isfinite():
            raise DivergenceError(
                f"epoch {self.state.epoch}: weights are no longer finite after {self.state.step} "
                "steps; the checkpoint before is kept, continue from it with a lower --lr"
            )
        progress = self.state.gathered()
        if not is_main_process():
            return
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "args": vars(self.args),
            "categories": self.classes.names,
            "is_thing": self.classes.is_thing or None,
            "ema": None if self.averaged is None else self.averaged.module.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "versions": versions(),
            **progress,
        }
        self.folder.save_checkpoint(content, epoch, self.args.lr_drop)

    def _end_epoch(self, saved_as: str | None = None) -> None:
        """Evaluate the epoch that is done, write it down, and keep the best.

        Args:
            saved_as: where it was saved, if not as the newest checkpoint.
        """
        state = self.state
        epoch = state.epoch - 1
        ema_stats = self._evaluate_averaged()
        test_stats, evaluator = self._evaluate(self.parallel_model)
        state.share_bad_images()
        self.folder.append_log(
            {
                **{f"train_{name}": value for name, value in (state.train_stats or {}).items()},
                **{f"test_{name}": value for name, value in test_stats.items()},
                **{f"ema_{name}": value for name, value in ema_stats.items()},
                "epoch": epoch,
                "n_parameters": self.num_parameters,
                **state.left_out(),
            }
        )
        if is_main_process():
            evaluation = serialisable_eval(evaluator.coco_eval["bbox"].eval)
            self.folder.save_epoch_evaluation(evaluation, epoch)
        state.scores[epoch] = validation_score(test_stats)
        if ema_stats:
            state.ema_scores[epoch] = validation_score(ema_stats)
        if state.best_epoch == epoch:
            self._keep_best(score_name(test_stats), saved_as)
        refuse_too_many(state.bad_images, self.args.skip_bad_images)

    def _keep_best(self, name: str, saved_as: str | None) -> None:
        """Make the epoch that is done ``best.pth``, and say so.

        Args:
            name: of the validation score.
            saved_as: where the epoch was saved, if not as the newest checkpoint.
        """
        state, epoch = self.state, self.state.epoch - 1
        self.folder.keep_as_best(saved_as, state.best_weights)
        if self.folder.path is not None:
            which = {"ema": "averaged weights, ", "model": "raw weights, "}[state.best_weights]
            which = which if epoch in state.ema_scores else ""
            print(f"best.pth: epoch {epoch}, {which}{name} {state.score_of(epoch):.3f}")

    @contextlib.contextmanager
    def _explained_worker_faults(self) -> Iterator[None]:
        """A data worker's death reaches the process as a signal: anywhere, not only in its loader.

        One that was just starting may die of a signal that the whole process group got.
        """
        try:
            yield
        except (RuntimeError, OSError) as err:
            explanation = explain_worker_fault(err)
            if explanation is None:
                raise
            if signum := self.signals.received:
                raise StopRequested(
                    signum,
                    f"stopped by {signal.Signals(signum).name}, which reached a data worker first; "
                    "from the newest checkpoint continue with --auto_resume",
                ) from err
            raise UserError(f"{explanation}; then continue with --auto_resume") from err

    def _stop_evaluation(self) -> None:
        """Between two batches, where nothing is lost; several processes could not agree there."""
        if self.signals.received is not None and get_world_size() == 1:
            self._stop()

    def _evaluate_averaged(self) -> dict[str, Any]:
        """Statistics of the averaged weights, where there are any."""
        if self.averaged is None:
            return {}
        print("Averaged weights:")
        return self._evaluate(self.averaged.module)[0]

    def _evaluate(self, model: nn.Module) -> tuple[dict[str, Any], CocoEvaluator]:
        """Evaluate, and report in words, in pictures and as a file where asked for."""
        with seeded(self.args.seed % 2**32):  # training goes on as if there had been no evaluation
            stats, evaluator = evaluate(
                model,
                self.criterion,
                self.postprocessors,
                self.val_loader,
                self.ground_truth,
                self.device,
                self.args.output_dir,
                self.args.amp,
                between_batches=self._stop_evaluation,
            )
        if is_main_process():
            report(evaluator, self.classes.names, training=not self.args.eval)
            self._draw_and_dump(evaluator)
        return stats, evaluator

    def _draw_and_dump(self, evaluator: CocoEvaluator) -> None:
        detections = all_detections(evaluator)
        if self.args.dump_detections:
            write_detections(detections, self.args.dump_detections)
        if self.folder.path is None:
            return
        draw_detections(detections, self.ground_truth, self.val_set, self.folder.path)
        if "panoptic" in self.postprocessors:
            draw_panoptic_maps(self.val_set, self.folder.path)

"""Epoch loop of a run: training, evaluation, checkpoints, log, and stopping on signals."""

import argparse
import contextlib
import datetime
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NoReturn

from torch import nn

from datasets.evaluation.result_formats import serializable_eval
from datasets.loading.loaders import TrainLoader
from datasets.loading.samples import refuse_too_many
from engine import EpochContext, train_one_epoch
from models.criterion import SetCriterion
from training.checkpoint import Thresholds, TrainingState, checkpoint_of
from training.compilation import describe_compilations, discard_graphs
from training.evaluation import Evaluation, Scored
from training.flags.config_file import write_config
from training.network import distribute
from training.optimization.plan import TrainingPlan
from training.progress import score_name, validation_score
from training.resume import set_aside_later_files
from training.run_files import RunFolder
from training.stopping import explained_worker_faults, stop
from training.tensorboard import TensorboardLog
from training.terminal.output import Output
from util.cli.signals import StopSignals
from util.distributed.gathering import broadcast_object
from util.distributed.processes import get_world_size, is_main_process
from util.errors import DivergenceError
from util.metric_logger import MetricLogger
from util.optimizer import num_optimized, set_backbone_trained
from util.step_watch import StepWatch
from util.text import count


@dataclass(frozen=True)
class LoopSettings:
    """The flags that the epoch loop uses."""

    patience: int | None
    clip_max_norm: float
    amp: str
    compile: bool
    save_every: int
    skip_bad_images: int
    overwrite: bool
    resume: str
    group_aspect: bool


def build_loop_settings(args: argparse.Namespace) -> LoopSettings:
    """Build the settings from the flags of the same names."""
    return LoopSettings(**{field.name: getattr(args, field.name) for field in fields(LoopSettings)})


@dataclass
class Run:
    """A training or evaluation run.

    Attributes:
        settings: flags of the epoch loop.
        plan: frozen backbone, batch size, warm-up and evaluation by epoch.
        flags: all flags by name, saved in checkpoints.
        config: content of ``config.txt``.
        folder: output folder.
        output: prints steps and scores.
        classes: class entries of a checkpoint.
        train_loader: training batches; None with ``--eval``.
        training: model, optimizer and progress, saved in checkpoints.
        parallel_model: the model, wrapped in DistributedDataParallel for several processes.
        criterion: computes the losses.
        evaluation: evaluates a model on the validation data.
        watch: detects non-finite steps and stop requests.
        tensorboard: TensorBoard log on rank 0 with ``--tensorboard``, else None.
    """

    settings: LoopSettings
    plan: TrainingPlan
    flags: Mapping[str, Any]
    config: str
    folder: RunFolder
    output: Output
    classes: Mapping[str, Any]
    train_loader: TrainLoader | None
    training: TrainingState
    parallel_model: nn.Module
    criterion: SetCriterion
    evaluation: Evaluation
    watch: StepWatch
    tensorboard: TensorboardLog | None = None

    def __post_init__(self) -> None:
        self.progress = self.training.progress
        self.device = next(self.training.model.parameters()).device
        self.signals = StopSignals()

    def score(self) -> None:
        """Evaluate once, for ``--eval``."""
        with contextlib.closing(self.output), explained_worker_faults(self.signals):
            self._score_averaged()
            if self.training.averaged is not None:
                print("Raw weights (written to the files and to --dump_detections):")
            evaluator = self._score().evaluator
            if is_main_process():
                self.folder.save_evaluation(serializable_eval(evaluator.coco_eval["bbox"].eval))

    def train(self) -> None:
        """Train to the last epoch, and evaluate as planned.

        Raises:
            DivergenceError: if there are more non-finite steps than ``--max_skipped_steps``.
            StopRequested: if a stop signal was received. A checkpoint has been saved, if there is
                an output folder.
        """
        settings, progress, epochs = self.settings, self.progress, self.plan.epochs
        if settings.overwrite:
            self.folder.start_over()
        if settings.resume:
            set_aside_later_files(self.folder, settings.resume, progress)
        else:  # with --auto_resume the log of a run whose checkpoints were deleted may be there
            self.folder.go_back_to(progress.epoch, progress.step)
        self.folder.remove_partial_files()
        self.output.log_line("Start training")
        if progress.epoch >= epochs:
            done = count(progress.epoch, "epoch")
            print(f"Nothing left to do: {done} done, --epochs is {epochs}")
        elif self.folder.path is not None and is_main_process():
            write_config(self.folder.path, self.config)
        self.output.load_scores(self.folder.read_log())
        started = time.monotonic()
        with contextlib.closing(self.output), self.signals, explained_worker_faults(self.signals):
            if self._last_epoch_is_not_logged():
                self._end_epoch(settings.resume)
            while progress.epoch < epochs and not self._should_stop_early():
                self._train_epoch()
                content = self._save(epoch=progress.epoch - 1)
                if self.watch.stop_agreed:
                    self._stop()
                # On a GPU, reload the file to get CPU tensors.
                self._end_epoch(content=content if self.device.type == "cpu" else None)
        self.output.log_line(
            f"Training time {datetime.timedelta(seconds=int(time.monotonic() - started))}"
        )
        if settings.compile:
            print(describe_compilations())

    def _last_epoch_is_not_logged(self) -> bool:
        """Whether the resumed run was interrupted after an epoch, but before its log entry."""
        progress, epoch = self.progress, self.progress.epoch - 1
        ended = progress.images_done == 0 and progress.train_stats is not None
        if not ended or epoch in progress.scores:
            return False
        folder = self.folder
        return broadcast_object(folder.holds(self.settings.resume) and not folder.has_logged(epoch))

    def _should_stop_early(self) -> bool:
        best, patience = self.progress.best_epoch, self.settings.patience
        if best is None or patience is None or not self.progress.has_score:
            return False
        if sum(epoch > best for epoch in self.progress.scores) < patience:
            return False
        averaged = " (EMA weights)" if self.progress.best_weights == "ema" else ""
        print(
            f"Early stopping (--patience {patience}): no better validation score since epoch "
            f"{best}{averaged}"
        )
        return True

    def _train_epoch(self) -> None:
        """Train one epoch, or the remaining steps of a resumed epoch."""
        assert self.train_loader is not None
        settings, plan, progress, training = self.settings, self.plan, self.progress, self.training
        self._freeze_or_unfreeze_backbone()
        progress.thresholds = progress.ema_thresholds = None  # they belong to the previous weights
        steps_done = progress.images_done // plan.images_per_step(progress.epoch)
        batches_done, batch_size = steps_done * plan.accum_steps, plan.batch_size_in(progress.epoch)
        self.train_loader.start_at(progress.epoch, batches_done, batch_size)
        stats: dict[str, Any] = train_one_epoch(
            self.parallel_model,
            self.criterion,
            self.train_loader,
            training.optimizer,
            self.device,
            progress.epoch,
            settings.clip_max_norm,
            settings.amp,
            accum_steps=plan.accum_steps,
            scaler=training.scaler,
            watch=self.watch,
            context=EpochContext(
                steps_done,
                progress.meters,
                lambda: self.signals.received is not None,
                self._after_step,
                lambda: plan.lr_factor(progress.epoch, progress.step),
            ),
            logger=self.output.epoch_logger(progress.epoch),
        )
        if settings.group_aspect and not steps_done:  # resumed: part of the batches
            stats["padding"] = self.train_loader.padding.share
        progress.train_stats = stats
        training.lr_scheduler.step()
        progress.epoch, progress.images_done, progress.meters = progress.epoch + 1, 0, {}

    def _freeze_or_unfreeze_backbone(self) -> None:
        """Freeze or unfreeze the backbone according to the plan of the current epoch."""
        plan, epoch = self.plan, self.progress.epoch
        is_frozen = plan.freezes_backbone(epoch)
        if set_backbone_trained(self.training.optimizer, not is_frozen):
            switch, batch_size = plan.freeze_backbone_epochs, plan.batch_size_in(epoch)
            until = f"frozen through epoch {switch - 1}"
            stage = until if is_frozen else f"trained from epoch {switch}"
            print(f"The backbone is {stage}; batch size {batch_size}")
            # DDP must be rebuilt: it expects a gradient for every trained parameter.
            self.parallel_model = distribute(self.training.model)
            if self.settings.compile:
                discard_graphs()

    def _after_step(self, steps_done: int, logger: MetricLogger) -> None:
        """Update EMA weights; save a checkpoint if one is due; after a signal also stop."""
        progress, every = self.progress, self.settings.save_every
        progress.step += 1
        if self.training.averaged is not None:
            self.training.averaged.update_parameters(self.training.model)
        progress.images_done = steps_done * self.plan.images_per_step(progress.epoch)
        if not self.watch.stop_agreed and not (every and progress.step % every == 0):
            return
        self.watch.read_flags()
        progress.meters = logger.state_dict()
        if self.folder.path is not None:
            self._save(epoch=None)
        if self.watch.stop_agreed:
            self._stop()

    def _stop(self) -> NoReturn:
        """Raise StopRequested on every rank. Collective: call on every rank."""
        stop(self.signals, self.progress, self.folder.path)

    def _save(self, epoch: int | None) -> dict[str, Any]:
        """Write a checkpoint, and return its content. Collective: call on every rank.

        Args:
            epoch: the epoch that has just been completed; None during an epoch.

        Returns:
            entries by key; tensors are shared with the training state.
        """
        parameters, progress = self.training.model.parameters(), self.progress
        if not nn.utils.get_total_norm(p.detach() for p in parameters).isfinite():
            raise DivergenceError(
                f"epoch {progress.epoch}: weights are no longer finite after {progress.step} "
                "steps; the previous checkpoint is kept: resume from it with a lower --lr"
            )
        content = checkpoint_of(self.training, self.flags, self.classes)
        self.folder.save_checkpoint(content, epoch)
        return content

    def _end_epoch(
        self, saved_as: str | None = None, content: Mapping[str, Any] | None = None
    ) -> None:
        """Evaluate the epoch just finished, if due, and log it.

        Args:
            saved_as: path of the epoch's checkpoint; None: the newest checkpoint.
            content: its content, if it is still in memory.
        """
        if self.plan.evaluates(self.progress.epoch - 1):
            self._evaluate_epoch(saved_as, content)
        else:
            self._log_epoch({}, {})
        refuse_too_many(self.progress.bad_images, self.settings.skip_bad_images)

    def _evaluate_epoch(self, saved_as: str | None, content: Mapping[str, Any] | None) -> None:
        """Evaluate the epoch just finished, write log and evaluation, update ``best.pth``."""
        progress, epoch = self.progress, self.progress.epoch - 1
        ema_stats, ema_thresholds = self._score_averaged()
        test_stats, evaluator, thresholds = self._score()
        found = thresholds, ema_thresholds
        if found != (progress.thresholds, progress.ema_thresholds):  # not yet in the checkpoint
            progress.thresholds, progress.ema_thresholds = found
            self.folder.add_thresholds(*found, saved_as, content)
        self._log_epoch(test_stats, ema_stats)
        if is_main_process():
            evaluation = serializable_eval(evaluator.coco_eval["bbox"].eval)
            self.folder.save_epoch_evaluation(evaluation, epoch)
        progress.scores[epoch] = validation_score(test_stats)
        if ema_stats:
            progress.ema_scores[epoch] = validation_score(ema_stats)
        if progress.best_epoch == epoch:
            self._keep_best(score_name(test_stats), saved_as)
        self.output.scores(progress, test_stats, ema_stats)

    def _log_epoch(self, test_stats: Mapping[str, Any], ema_stats: Mapping[str, Any]) -> None:
        """Log the epoch just finished; the statistics are empty if it was not evaluated."""
        progress, epoch = self.progress, self.progress.epoch - 1
        progress.share_bad_images()
        entry = {
            **{f"train_{name}": value for name, value in (progress.train_stats or {}).items()},
            **{f"test_{name}": value for name, value in test_stats.items()},
            **{f"ema_{name}": value for name, value in ema_stats.items()},
            "epoch": epoch,
            "n_parameters": num_optimized(self.training.optimizer),
            **({"backbone_frozen": True} if self.plan.freezes_backbone(epoch) else {}),
            **progress.skips_and_replacements(),
        }
        self.folder.append_log(entry)
        if self.tensorboard is not None:
            self.tensorboard.write(entry)

    def _keep_best(self, name: str, saved_as: str | None) -> None:
        """Save the epoch just finished as ``best.pth``, and print its score.

        Args:
            name: name of the validation score.
            saved_as: path of the epoch's checkpoint; None: the newest checkpoint.
        """
        progress, epoch = self.progress, self.progress.epoch - 1
        self.folder.keep_as_best(saved_as, progress.best_weights)
        if self.folder.path is not None:
            which = {"ema": "EMA weights, ", "model": "raw weights, "}[progress.best_weights]
            which = which if epoch in progress.ema_scores else ""
            score = f"{name} {progress.score_of(epoch):.3f}"
            self.output.log_line(f"best.pth: epoch {epoch}, {which}{score}")

    def _score_averaged(self) -> tuple[dict[str, Any], Thresholds]:
        """Evaluate the EMA weights, if there are any; return statistics and thresholds."""
        if self.training.averaged is None:
            return {}, None
        print("EMA weights:")
        scored = self._score(self.training.averaged.module)
        return scored.stats, scored.thresholds

    def _score(self, model: nn.Module | None = None) -> Scored:
        """Evaluate a model; default: the raw weights. Collective: call on every rank."""
        model = self.parallel_model if model is None else model
        return self.evaluation.score(model, self._stop_evaluation)

    def _stop_evaluation(self) -> None:
        """Single-process runs: stop between two evaluation batches after a signal."""
        if self.signals.received is not None and get_world_size() == 1:
            self._stop()

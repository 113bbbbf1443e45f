"""Evaluation of a run's model: scores, tables, figures and a file with the detections."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from datasets.coco_eval import CocoEvaluator
from datasets.evaluation.evaluated_data import (
    EvaluatedData,
    ground_truth_hash,
    write_evaluated_data,
)
from datasets.evaluation.result_formats import write_detections
from datasets.loading.samples import ReportingLoader
from engine import evaluate
from models.criterion import SetCriterion
from training.data import Data
from training.evaluation_output import (
    all_detections,
    draw_detections,
    draw_panoptic_maps,
    explanations,
    print_class_tables,
    thresholds_in,
)
from training.flags.data_checks import DATA_FLAGS
from training.run_files import RunFolder
from training.terminal.output import Output
from util.distributed.processes import is_main_process
from util.reproducibility.random_state import seeded

_DEFAULT_THRESHOLD = 0.5


class Scored(NamedTuple):
    """Result of an evaluation.

    Attributes:
        stats: statistics, see `engine.evaluate`.
        evaluator: evaluator after ``accumulate``, see `engine.evaluate`.
        thresholds: see `training.evaluation_output.thresholds_in`; None also for ``--eval`` without
            an output folder.
    """

    stats: dict[str, Any]
    evaluator: CocoEvaluator
    thresholds: dict[str, Any] | None


@dataclass(frozen=True)
class Evaluation:
    """Evaluates models on the validation data.

    Attributes:
        criterion: computes the losses.
        postprocessors: see `engine.evaluate`.
        loader: yields validation batches.
        data: datasets, classes and ground truth.
        folder: output folder, for figures and panoptic maps.
        output: prints the steps and the tables.
        amp: mixed precision, see `engine.evaluate`.
        seed: seed of the random generators during an evaluation.
        dump_detections: file for the detections of the last evaluation; empty: none.
        training: whether this is an evaluation during training, not ``--eval``.
        evaluated_data: content of ``eval/data.json``; None without an output folder.
    """

    criterion: SetCriterion
    postprocessors: dict[str, nn.Module]
    loader: ReportingLoader
    data: Data
    folder: RunFolder
    output: Output
    amp: str
    seed: int
    dump_detections: str
    training: bool
    evaluated_data: EvaluatedData | None = None

    def score(self, model: nn.Module, before_batch: Callable[[], None]) -> Scored:
        """Evaluate a model, print and draw its results, and write ``--dump_detections``.

        The random state of training is preserved. Collective: call on every rank.

        Args:
            model: the model, or its copy with EMA weights.
            before_batch: called before each batch; may raise to end the evaluation.
        """
        with_tables = not (self.training and self.output.is_short)
        with seeded(self.seed % 2**32):
            stats, evaluator = evaluate(
                model,
                self.criterion,
                self.postprocessors,
                self.loader,
                self.data.ground_truth,
                next(model.parameters()).device,
                self.folder.path or "",
                self.amp,
                before_batch=before_batch,
                logger=self.output.evaluation_logger(),
                print_tables=with_tables,
            )
        is_used = self.training or self.folder.path is not None
        thresholds = thresholds_in(evaluator) if is_used else None  # seconds on COCO: only once
        if is_main_process():
            if with_tables:
                print_class_tables(evaluator, self.data.classes.names)
            self.output.explain(explanations(evaluator, self.training))
            self._draw_and_dump(evaluator, thresholds)
        return Scored(stats, evaluator, thresholds)

    def _draw_and_dump(self, evaluator: CocoEvaluator, thresholds: dict[str, Any] | None) -> None:
        detections = all_detections(evaluator)
        if self.dump_detections:
            write_detections(detections, self.dump_detections, self.data.classes.text_ids)
        if self.folder.path is None:
            return
        self.folder.save_detections(detections, self.data.classes.text_ids)
        if self.evaluated_data is not None:
            files = ("eval/detections.json", "eval/latest.pth" if self.training else "eval.pth")
            write_evaluated_data(self.folder.path, files, self.evaluated_data)
        val_set = self.data.val_set
        # The same detections as in the figures of `predict.py` and of the report.
        threshold = _DEFAULT_THRESHOLD if thresholds is None else float(thresholds["best_f1"])
        figure = draw_detections(
            detections, self.data.ground_truth, val_set, self.folder.path, threshold
        )
        if figure is not None:
            self.output.log_line(f"Detections next to ground truth: {figure}")
        if "panoptic" in self.postprocessors:
            figure = draw_panoptic_maps(val_set, self.folder.path)
            self.output.log_line(f"Panoptic maps next to ground truth: {figure}")


def build_evaluation(
    args: argparse.Namespace,
    criterion: SetCriterion,
    postprocessors: dict[str, nn.Module],
    loader: ReportingLoader,
    data: Data,
    folder: RunFolder,
    output: Output,
) -> Evaluation:
    """Build `Evaluation` from ``amp``, ``seed``, ``dump_detections``, ``eval`` and data flags."""
    batch_size = args.eval_batch_size or args.batch_size
    if args.dilation and batch_size > 1:
        print(
            f"DC5 models (--dilation) lose AP in padded batches (here {batch_size} images); "
            "evaluate with --eval_batch_size 1"
        )
    if args.patience is not None and not args.eval and "panoptic" not in postprocessors:
        _warn_of_no_score(args.patience, data)
    return Evaluation(
        criterion=criterion,
        postprocessors=postprocessors,
        loader=loader,
        data=data,
        folder=folder,
        output=output,
        amp=args.amp,
        seed=args.seed,
        dump_detections=args.dump_detections,
        training=not args.eval,
        evaluated_data=_build_evaluated_data(args, data) if folder.path is not None else None,
    )


def _warn_of_no_score(patience: int, data: Data) -> None:
    """Print a warning if every AP will be -1, so that early stopping has nothing to compare."""
    if all(annotation.get("iscrowd") for annotation in data.ground_truth.anns.values()):
        print(
            f"Warning: --patience {patience} will not stop this run: the validation data has no "
            "objects, so that no epoch has a score"
        )


def _build_evaluated_data(args: argparse.Namespace, data: Data) -> EvaluatedData:
    flags = {name: getattr(args, name) for name in DATA_FLAGS}
    return EvaluatedData(ground_truth_hash(data.ground_truth), flags, data.classes.names)

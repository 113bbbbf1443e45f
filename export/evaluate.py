"""AP and time of ONNX files on data in COCO format: ``python -m export.evaluate --help``."""

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the imports below, which take seconds
    end_at_once_on_interrupt("python -m export.evaluate")

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.annotations.class_tables import warn_of_other_ids
from datasets.coco import CocoDetection
from datasets.coco_eval import CocoEvaluator
from datasets.loading.byte_images import Normalization
from export.command import require
from export.preparation import Preparation
from export.wrapper import INPUTS
from util.category_ids import category_id_of
from util.cli.command_line import ArgumentParser, FlagGroup, positive_int, run_command
from util.errors import UserError

_PROGRAM = "python -m export.evaluate"
# Index of the metric in COCO's summary.
_METRICS = {"AP": 0, "AP50": 1, "AP75": 2}
Runner = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]  # inputs to outputs by name


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX file of `export.onnx`, loaded in a runtime.

    Attributes:
        run: computes the outputs by name.
        inputs: names of the inputs: ``images``, and ``padding_mask`` except for detr_demo.
        preparation: how its input images are scaled and normalized.
        category_ids: category id of each label, see `util.category_ids.category_id_of`.
        categories: class names by category id, where known.
        size: bytes of the file, and of its external data.
    """

    run: Runner
    inputs: Sequence[str]
    preparation: Preparation
    category_ids: Sequence[int]
    categories: Mapping[int, str]
    size: int


def load(path: Path, runtime: str, threads: int, precision: str | None = None) -> OnnxModel:
    """Load a file.

    Args:
        path: ONNX file of `export.onnx`.
        runtime: ``onnxruntime`` or ``openvino``, on the CPU.
        threads: number of threads; 0: chosen by the runtime.
        precision: dtype in which OpenVINO computes, ``f32`` or ``bf16``; None: its default.

    Raises:
        UserError: the file does not exist, or is of another kind.
    """
    if not path.is_file():
        raise UserError(f"{path}: the file does not exist")
    try:
        session, metadata = _open_session(path, threads)
        fixed = json.loads(metadata.get("fixed_size", "null"))
        short_side, max_size = int(metadata["short_side"]), int(metadata["max_size"])
        statistics_of = {name: json.loads(metadata[name]) for name in ("image_mean", "image_std")}
        preparation = Preparation(
            short_side,
            max_size,
            (fixed[0], fixed[1]) if fixed else None,
            Normalization.of(statistics_of, str(path)),
        )
        own_ids = json.loads(metadata["category_ids"])
        category_ids = [category_id_of(i) for i in own_ids]
        names = json.loads(metadata["categories"])
        categories = {category_id_of(i): names[str(i)] for i in own_ids if str(i) in names}
    except Exception as err:  # a foreign file can make the runtime raise anything
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise UserError(f"{path}: is not a file of export.onnx ({reason:.100})") from err
    inputs = [entry.name for entry in session.get_inputs()]
    outputs = [output.name for output in session.get_outputs()]
    if not {"images"} <= set(inputs) <= set(INPUTS) or "scores" not in outputs:
        raise UserError(f"{path}: export it without --raw and --end_to_end to evaluate it")
    run = _in_onnx_runtime(session, outputs)
    if runtime == "openvino":
        run = _in_openvino(path, outputs, threads, precision)
    return OnnxModel(run, inputs, preparation, category_ids, categories, _size_of(path))


def _size_of(path: Path) -> int:
    """Bytes of a file and of its external data."""
    data = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)


def _open_session(path: Path, threads: int) -> tuple[Any, dict[str, str]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session, session.get_modelmeta().custom_metadata_map


def _in_onnx_runtime(session: Any, names: Sequence[str]) -> Runner:
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _in_openvino(path: Path, names: Sequence[str], threads: int, precision: str | None) -> Runner:
    openvino: Any = importlib.import_module("openvino")
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    if precision is not None:
        options["INFERENCE_PRECISION_HINT"] = precision
    compiled = openvino.Core().compile_model(path, "CPU", options)

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs by name."""
        outputs = compiled(dict(inputs))
        return {name: outputs[i] for i, name in enumerate(names)}  # in the order of the file

    return run


def evaluate(model: OnnxModel, dataset: CocoDetection) -> tuple[dict[str, float], float]:
    """Compute the box metrics of COCO.

    Args:
        dataset: images without transforms, and their ground truth.

    Returns:
        the metrics in [0, 1] by name, and the median time of the model per image in ms.

    Raises:
        UserError: an image cannot be read.
    """
    evaluator = CocoEvaluator(dataset.coco, ("bbox",), print_tables=False)
    category_ids = np.array(model.category_ids)
    milliseconds = []
    for index in range(len(dataset)):
        image, target = dataset[index]
        batch = model.preparation.batch_of(image)
        by_name = zip(INPUTS, batch, strict=True)
        inputs = {name: value.numpy() for name, value in by_name if name in model.inputs}
        start = time.perf_counter()
        outputs = model.run(inputs)
        milliseconds.append((time.perf_counter() - start) * 1e3)
        detections = {
            "scores": torch.from_numpy(outputs["scores"][0].copy()),
            "labels": torch.from_numpy(category_ids[outputs["labels"][0]]),
            "boxes": torch.from_numpy(outputs["boxes"][0] * (image.size * 2)),
        }
        evaluator.update({int(target["image_id"]): detections})
    evaluator.synchronize_between_processes()
    evaluator.accumulate()
    evaluator.summarize()
    stats = evaluator.coco_eval["bbox"].stats
    metrics = {name: float(stats[number]) for name, number in _METRICS.items()}
    return metrics, statistics.median(milliseconds)


def build_parser() -> ArgumentParser:
    """Create the parser."""
    parser = ArgumentParser(
        prog=_PROGRAM,
        description="Print box AP, size and time per image of export.onnx files on COCO data.",
    )
    parser.add_argument("models", nargs="+", type=Path, help="ONNX files")
    data = FlagGroup(parser, "data")
    data.add("--images", "folder of images", required=True)
    data.add("--annotations", "COCO instance annotations of the images", required=True)
    runtime = FlagGroup(parser, "runtime")
    names = ("onnxruntime", "openvino")
    runtime.add("--runtime", "runtime, on the CPU", choices=names, default=names[0])
    threads = "number of threads (default: chosen by the runtime)"
    runtime.add("--threads", threads, type=positive_int)
    precision = "precision in which OpenVINO computes (default: chosen by OpenVINO)"
    runtime.add("--precision", precision, choices=("f32", "bf16"))
    return parser


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 after a user error."""

    def command() -> None:
        """Parse the flags, evaluate the files and print a table."""
        args = build_parser().parse_args(argv)
        if args.precision and args.runtime != "openvino":
            raise UserError("--precision is only used with --runtime openvino; omit it")
        require(sorted({"onnxruntime", args.runtime}), _PROGRAM)
        _print_table(args)

    return run_command(_PROGRAM, command)


def _print_table(args: argparse.Namespace) -> None:
    dataset = CocoDetection(args.images, args.annotations, None, return_masks=False)
    width = max(len(path.name) for path in args.models)
    print(f"{'file':{width}}  {'MiB':>6}  " + "  ".join(f"{m:>6}" for m in _METRICS) + "      ms")
    for path in args.models:
        model = load(path, args.runtime, args.threads or 0, args.precision)
        warn_of_other_ids(model.categories, dataset.categories, args.annotations)
        metrics, ms = evaluate(model, dataset)
        numbers = "  ".join(f"{value:6.3f}" for value in metrics.values())
        print(f"{path.name:{width}}  {model.size / 2**20:6.1f}  {numbers}  {ms:6.1f}", flush=True)


if __name__ == "__main__":
    sys.exit(run())

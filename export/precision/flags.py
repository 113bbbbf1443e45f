"""The flags ``--dtype`` and ``--int8`` of the ONNX exporter."""

import argparse
from typing import Any

from export.command import Job
from export.precision.floats import DTYPES, convert_to_fp16, store_as_bf16
from export.precision.int8 import quantize
from export.preparation import Preparation, image_paths
from util.cli.command_line import FlagGroup, positive_int
from util.errors import UserError

_NUM_IMAGES = 100
_NUM_CHECKED = 4
# Default of --tolerance: largest differences of scores and of box coordinates in [0, 1].
_TOLERANCE = {"fp16": 0.02, "bf16": 0.1}
_TOLERANCE_INT8 = 0.5


def add_precision_flags(group: FlagGroup) -> None:
    """Add the flags."""
    group.add(
        "--dtype",
        "fp16: weights and computation in float16; bf16: weights stored as bfloat16",
        choices=DTYPES,
        default=DTYPES[0],
    )
    group.add(
        "--int8",
        "quantize to 8-bit integers, calibrated on the images of this FOLDER",
        metavar="FOLDER",
    )
    group.add(
        "--int8_images",
        f"number of images for --int8 (default: {_NUM_IMAGES}, or all if there are fewer)",
        type=positive_int,
    )


def check_precision_flags(args: argparse.Namespace, job: Job) -> None:
    """Check the flags, and set the tolerance and the batches of the comparison with PyTorch.

    Raises:
        UserError: contradictory flags, or no images.
    """
    if args.int8 is None:
        if args.int8_images is not None:
            raise UserError("--int8_images belongs to --int8 FOLDER: leave it out or give both")
        job.tolerance = _TOLERANCE.get(args.dtype, job.tolerance)
        return
    if args.dtype != DTYPES[0]:
        raise UserError(f"--int8 and --dtype {args.dtype} exclude each other: give one of them")
    if args.check_batches or args.check_sizes:
        raise UserError(
            "--check_sizes and --check_batches are not used with --int8, which is compared with "
            "PyTorch on images of its folder: leave them out"
        )
    job.tolerance = _TOLERANCE_INT8
    paths = image_paths(args.int8, _NUM_CHECKED)
    job.batches = list(_preparation(job, args).batches_of(paths))


def converted(model: Any, job: Job, args: argparse.Namespace) -> Any:
    """Convert an ``onnx.ModelProto`` to the precision of the flags."""
    if args.int8 is not None:
        paths = image_paths(args.int8, args.int8_images or _NUM_IMAGES)
        print(f"calibrating on {len(paths)} images of {args.int8}", flush=True)
        batches = _preparation(job, args).batches_of(paths)
        inputs = (job.module.inputs_of(*batch) for batch in batches)
        return quantize(model, job.module.signature().inputs, inputs)
    if args.dtype == "fp16":
        return convert_to_fp16(model)
    return store_as_bf16(model) if args.dtype == "bf16" else model


def _preparation(job: Job, args: argparse.Namespace) -> Preparation:
    source = job.source
    return Preparation(source.short_side, source.max_size, args.fixed_size, source.normalization)

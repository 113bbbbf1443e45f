"""Detect objects in images, folders and videos: ``python predict.py --help``.

In Python: ``from predict import Detector``. Modules that import PyTorch take seconds to load; they
are imported inside functions, so that ``--help`` and command-line errors appear at once.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from util.cli.command_line import (
    ArgumentParser,
    FlagGroup,
    fraction,
    positive_int,
    run_command,
)
from util.cli.early_interrupt import end_at_once_on_interrupt
from util.errors import UserError
from util.options import AMP_CHOICES, AMP_HELP

if TYPE_CHECKING:
    from prediction.detector import Detector
    from prediction.inputs.find import Input
    from prediction.inputs.listed import ListedFiles
    from prediction.run import Output, Tally

__all__ = ["Detector", "main"]


def __getattr__(name: str) -> Any:
    """Import `Detector` on first use."""
    if name != "Detector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from prediction.detector import Detector

    return Detector


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 if nothing could be predicted."""
    args = build_parser().parse_args(argv)
    return run_command("predict.py", lambda: _predict(args), "lower --batch_size")


def build_parser() -> ArgumentParser:
    """Build the command-line parser."""
    parser = ArgumentParser(
        "predict.py",
        usage="predict.py INPUT [INPUT ...] (--checkpoint FILE | --hub NAME) --output_dir DIR "
        "[flags]",
        description="Detect objects in images and videos; write annotated images, JSON and CSV.",
    )
    inputs = "image, folder (with subfolders), quoted glob pattern, video file or camera index"
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help=inputs)
    _add_model_flags(FlagGroup(parser, "model"))
    _add_detection_flags(FlagGroup(parser, "detections"))
    _add_output_flags(FlagGroup(parser, "output"))
    return parser


def _add_model_flags(group: FlagGroup) -> None:
    add = group.add
    checkpoint = "checkpoint written by main.py, released .pth file, or .safetensors file"
    add("--checkpoint", f"{checkpoint} (path or URL)")
    hub = "released model to download and use instead of --checkpoint, such as detr_resnet50"
    add("--hub", hub)
    group.add_switch("--ema", "use the EMA weights (checkpoints of runs with --ema_decay)")
    dc5 = "the --checkpoint is a DC5 model (only needed if the file stores no flags)"
    group.add_switch("--dilation", dc5)
    heads = "number of attention heads (only needed if the file stores no flags; default: 8)"
    add("--nheads", heads, type=positive_int)
    losses = "classification loss of the --checkpoint (only needed if the file stores no flags)"
    add("--cls_loss", losses, choices=["ce", "focal"], default=None)
    add("--device", "cpu or cuda (default: cuda if there is a GPU)")
    add("--amp", AMP_HELP, choices=AMP_CHOICES, default="off")
    add("--batch_size", "maximum number of images per batch", type=positive_int, default=4)


def _add_detection_flags(group: FlagGroup) -> None:
    add = group.add
    threshold = (
        "minimum score (default: best-F1 threshold in the checkpoint, else 0.5, or 0.2 with focal "
        "loss; segments of panoptic models: --panoptic_threshold of training)"
    )
    add("--threshold", threshold, type=fraction)
    add("--classes", "classes to detect, such as cat,dog (default: all)", default=None)
    fps = "videos: frames per second to sample (default: all)"
    add("--fps", fps, type=_positive_float)


def _add_output_flags(group: FlagGroup) -> None:
    add, add_switch = group.add, group.add_switch
    add("--output_dir", "folder for the results; files with the same names are overwritten")
    formats = "format of detections.json: names (per image, with class names), coco (COCO results)"
    add("--json", formats, choices=["names", "coco"], default="names")
    add("--ann", "with --json coco: COCO annotation file that provides the image ids")
    add_switch("--no_pictures", "do not save annotated images (pictures/)")
    add_switch("--crops", "save a crop of each detection")
    add_switch("--counts", "write counts.csv: number of objects per image and class")
    add_switch("--attention", "draw encoder and decoder attention maps")
    points = "with --attention: pixels whose encoder attention is drawn (default: box centers)"
    add("--points", points, nargs="+", type=_point, metavar="X,Y")


def _positive_float(text: str) -> float:
    """Argparse type: a positive number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _point(text: str) -> tuple[float, float]:
    """Argparse type: two non-negative numbers x,y."""
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        x = y = math.nan
    if not (0 <= x < math.inf and 0 <= y < math.inf):
        raise argparse.ArgumentTypeError(f"{text!r} is not a point X,Y in pixels, such as 120,80")
    return x, y


def _predict(args: argparse.Namespace) -> None:
    """Find the inputs, load the model, predict, and print a summary."""
    _check_flags(args)
    from prediction.inputs.find import find_inputs, ignored_files, warn_of_output_inside

    inputs, others = find_inputs(args.inputs, args.output_dir)
    warn_of_output_inside(args.inputs, args.output_dir)
    if others:
        print(ignored_files(others))

    from datasets.annotations.class_tables import warn_of_other_ids
    from prediction.inputs.reading import read_items
    from prediction.run import Tally, predict_all

    listed = _build_listed(args, inputs)
    detector = _build_detector(args)
    if listed is not None:
        warn_of_other_ids(detector.loaded.categories, listed.categories, f"--ann {args.ann}")
    classes = [name.strip() for name in args.classes.split(",")] if args.classes else None
    detector.loaded.ids_of(classes or [])  # raises for unknown classes before files are written
    tally = Tally()
    images = read_items(inputs, args.fps, listed, tally.fail)
    outputs = _build_outputs(args, detector, tally, classes)
    try:
        predict_all(detector, images, outputs, tally, args.threshold, args.batch_size, classes)
    finally:
        print(f"{tally.summary()}; results in {args.output_dir}")
        _report_older_results(args, detector.loaded.is_panoptic)


def _check_flags(args: argparse.Namespace) -> None:
    """Check flags that contradict each other or have no effect."""
    if bool(args.checkpoint) == bool(args.hub):
        raise UserError("give the model: either --checkpoint FILE or --hub NAME")
    if args.hub and (args.ema or args.dilation or args.nheads or args.cls_loss):
        raise UserError(
            "--ema, --dilation, --nheads and --cls_loss require --checkpoint, not --hub"
        )
    if not args.output_dir:
        raise UserError("give a folder for the results: --output_dir DIR")
    if Path(args.output_dir).exists() and not Path(args.output_dir).is_dir():
        raise UserError(f"--output_dir {args.output_dir} is a file: give a folder")
    if args.ann and args.json != "coco":
        raise UserError("--ann provides the image ids of COCO results: add --json coco")
    if args.points and not args.attention:
        raise UserError("--points selects points for attention maps: add --attention")


def _build_listed(args: argparse.Namespace, inputs: "Sequence[Input]") -> "ListedFiles | None":
    """Check the inputs, and read the annotation file of ``--ann``."""
    from prediction.inputs.listed import ListedFiles
    from prediction.inputs.video import reader_of

    videos = [video for video in inputs if video.is_video]
    if args.fps is not None and not videos:
        raise UserError("--fps applies to videos, but no input is a video: omit it")
    for video in videos:
        reader_of(video.path)
    if not args.ann:
        return None
    listed = ListedFiles(args.ann)
    listed.check(inputs)
    return listed


def _build_detector(args: argparse.Namespace) -> "Detector":
    """Load the model, and print its classes and thresholds."""
    from prediction.detector import Detector
    from util.system.memory import keep_freed_memory

    if args.hub:
        detector = Detector.hub(args.hub, args.device, args.amp)
    else:
        detector = Detector(
            args.checkpoint,
            args.device,
            args.amp,
            ema=args.ema,
            dilation=args.dilation or None,
            nheads=args.nheads,
            cls_loss=args.cls_loss,
        )
    if detector.device.type == "cpu":
        keep_freed_memory()
    if detector.precision.warning:
        print(f"Warning: {detector.precision.warning}")
    if args.amp == "auto":
        print(f"Computing in {detector.precision}")
    print(f"{args.checkpoint or args.hub}: {detector.describe(args.threshold)}")
    return detector


def _build_outputs(
    args: argparse.Namespace,
    detector: "Detector",
    tally: "Tally",
    classes: Sequence[str] | None,
) -> "list[Output]":
    """Create the output folder, and the outputs selected by the flags."""
    from prediction.outputs.attention_pictures import AttentionPictures
    from prediction.outputs.json_files import CocoJson, NamesJson, PanopticFiles
    from prediction.outputs.pictures import Crops, Pictures
    from prediction.outputs.tables import CountTable, DetectionTable

    folder = Path(args.output_dir)
    attention = [AttentionPictures(folder, detector, args.points or [])] if args.attention else []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        reason = f"cannot be created ({err.strerror})"
        raise UserError(f"--output_dir {folder} {reason}: choose another folder") from None
    categories = detector.categories()
    outputs: list[Output] = []
    if args.json == "coco":
        outputs.append(CocoJson(folder, categories, with_images=not args.ann))
    else:
        settings = {"model": args.checkpoint or args.hub, **detector.thresholds(args.threshold)}
        settings["categories"] = categories
        outputs.append(NamesJson(folder, settings, not args.no_pictures, tally.failures))
    outputs.append(DetectionTable(folder))
    if args.counts:
        outputs.append(CountTable(folder, classes))
    if detector.loaded.is_panoptic:
        outputs.append(PanopticFiles(folder, categories))
    if not args.no_pictures:
        outputs.append(Pictures(folder))
    if args.crops:
        outputs.append(Crops(folder))
    return [*outputs, *attention]


def _report_older_results(args: argparse.Namespace, is_panoptic: bool) -> None:
    """Print which files and folders in the output folder are from an earlier prediction."""
    is_written = {
        "counts.csv": args.counts,
        "images.json": args.json == "coco" and not args.ann,
        "panoptic.json": is_panoptic,
        "panoptic": is_panoptic,
        "pictures": not args.no_pictures,
        "crops": args.crops,
        "attention": args.attention,
    }
    folder = Path(args.output_dir)
    older = [name for name, now in is_written.items() if not now and (folder / name).exists()]
    if older:
        print(f"{folder} also contains results of an earlier prediction: {', '.join(older)}")


if __name__ == "__main__":
    end_at_once_on_interrupt("predict.py")
    sys.exit(main())

"""Detect objects in images, folders and videos: ``python predict.py --help``.

In Python: ``from predict import Detector``. Modules that import PyTorch take seconds to load; they
are imported inside functions, so that ``--help`` and mistakes on the command line do not wait.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from util.cli.command_line import ArgumentParser, FlagGroup, positive_number, run_command, share
from util.cli.early_interrupt import end_at_once_on_interrupt
from util.errors import UserError

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
    """The parser of the command line."""
    parser = ArgumentParser(
        "predict.py",
        usage="predict.py INPUT [INPUT ...] --checkpoint FILE --output_dir DIR [flags]",
        description="Detect objects in images and videos; write pictures, JSON and CSV.",
    )
    inputs = "image, folder (with its sub-folders), quoted pattern, video file or camera number"
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help=inputs)
    _add_model_flags(FlagGroup(parser, "model"))
    _add_detection_flags(FlagGroup(parser, "detections"))
    _add_output_flags(FlagGroup(parser, "output"))
    return parser


def _add_model_flags(group: FlagGroup) -> None:
    add = group.add
    add("--checkpoint", "file or URL: checkpoint of main.py, released file or safetensors file")
    add("--hub", "instead of --checkpoint: released model, downloaded, such as detr_resnet50")
    group.add_switch("--ema", "use the averaged weights of a run with --ema_decay")
    group.add_switch("--dilation", "DC5 model, for a --checkpoint without stored flags")
    heads = "attention heads, for a --checkpoint without stored flags (default: 8)"
    add("--nheads", heads, type=positive_number)
    add("--device", "cpu or cuda (default: cuda if there is a GPU)")
    add("--amp", "mixed precision", choices=["off", "bf16", "fp16"], default="off")
    add("--batch_size", "maximum images per batch", type=positive_number, default=4)


def _add_detection_flags(group: FlagGroup) -> None:
    add = group.add
    threshold = "minimum score (default: the best F1 of the training if stored, else 0.5)"
    add("--threshold", threshold, type=share)
    add("--classes", "names of the classes to detect: cat,dog (default: all)", default=None)
    add("--fps", "frames per second of videos (default: all frames)", type=_frame_rate)


def _add_output_flags(group: FlagGroup) -> None:
    add, add_switch = group.add, group.add_switch
    add("--output_dir", "folder for the results; files of an earlier prediction are replaced")
    formats = "detections.json: names (per image, with class names) or coco (COCO results)"
    add("--json", formats, choices=["names", "coco"], default="names")
    add("--ann", "for --json coco: COCO annotation file with the ids of the images")
    add_switch("--no_pictures", "do not draw pictures")
    add_switch("--crops", "save a cut-out of each detection")
    add_switch("--counts", "write counts.csv: objects per image and class")
    add_switch("--attention", "draw attention maps of the encoder and the decoder")
    points = "for --attention: points in pixels, such as 120,80 200,50 (default: the best boxes)"
    add("--points", points, nargs="+", type=_point, metavar="X,Y")


def _frame_rate(text: str) -> float:
    """Type of a flag: a positive number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _point(text: str) -> tuple[float, float]:
    """Type of a flag: two numbers x,y that are not negative."""
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        x = y = math.nan
    if not (0 <= x < math.inf and 0 <= y < math.inf):
        raise argparse.ArgumentTypeError(f"{text!r} is not a point X,Y in pixels, such as 120,80")
    return x, y


def _predict(args: argparse.Namespace) -> None:
    """Find the inputs, load the model, predict, and say what was written.

    Raises:
        UserError: a mistake in flags or files, or nothing could be predicted.
    """
    _check_flags(args)
    from prediction.inputs.find import find_inputs

    inputs, num_others = find_inputs(args.inputs, args.output_dir)
    if num_others:
        from util.visualize.contact_sheet import count

        print(f"{count(num_others, 'file')} left out: no suffix of an image")

    from prediction.inputs.reading import read_items
    from prediction.run import Tally, predict_all

    listed = _build_listed(args, inputs)
    detector = _build_detector(args)
    classes = [name.strip() for name in args.classes.split(",")] if args.classes else None
    detector.loaded.ids_of(classes or [])  # a mistake is reported before anything is written
    tally = Tally()
    images = read_items(inputs, args.fps, listed, tally.fail)
    outputs = _build_outputs(args, detector, tally, classes)
    try:
        predict_all(detector, images, outputs, tally, args.threshold, args.batch_size, classes)
    finally:
        print(f"{tally.summary()}; results in {args.output_dir}")


def _check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that contradict each other or mean nothing."""
    if bool(args.checkpoint) == bool(args.hub):
        raise UserError("give the model: either --checkpoint FILE or --hub NAME")
    if args.hub and (args.ema or args.dilation or args.nheads):
        raise UserError("--ema, --dilation and --nheads belong to --checkpoint, not to --hub")
    if not args.output_dir:
        raise UserError("give a folder for the results: --output_dir DIR")
    if Path(args.output_dir).exists() and not Path(args.output_dir).is_dir():
        raise UserError(f"--output_dir {args.output_dir} is a file: give a folder")
    if args.ann and args.json != "coco":
        raise UserError("--ann gives the image ids of COCO results: add --json coco")
    if args.points and not args.attention:
        raise UserError("--points chooses points of attention maps: add --attention")


def _build_listed(args: argparse.Namespace, inputs: "Sequence[Input]") -> "ListedFiles | None":
    """The annotation file of ``--ann``, after checks of the inputs."""
    from prediction.inputs.listed import ListedFiles
    from prediction.inputs.video import reader_of

    videos = [one for one in inputs if one.is_video]
    if args.fps is not None and not videos:
        raise UserError("--fps is for videos, and no input is one: leave it out")
    for one in videos:
        reader_of(one.path)
    if not args.ann:
        return None
    listed = ListedFiles(args.ann)
    listed.check(inputs)
    return listed


def _build_detector(args: argparse.Namespace) -> "Detector":
    """Load the model, and print its classes and thresholds."""
    from prediction.detector import Detector

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
        )
    print(f"{args.checkpoint or args.hub}: {detector.describe(args.threshold)}")
    return detector


def _build_outputs(
    args: argparse.Namespace,
    detector: "Detector",
    tally: "Tally",
    classes: Sequence[str] | None,
) -> "list[Output]":
    """Create the output folder and everything that the flags ask for."""
    from prediction.outputs.attention_pictures import AttentionPictures
    from prediction.outputs.json_files import CocoJson, NamesJson
    from prediction.outputs.panoptic_files import PanopticFiles
    from prediction.outputs.pictures import Crops, Pictures
    from prediction.outputs.tables import CountTable, DetectionTable

    folder = Path(args.output_dir)
    attention = [AttentionPictures(folder, detector, args.points or [])] if args.attention else []
    _create(folder)
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


def _create(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        reason = f"cannot be created ({err.strerror})"
        raise UserError(f"--output_dir {folder} {reason}: choose another folder") from None


if __name__ == "__main__":
    end_at_once_on_interrupt("predict.py")
    sys.exit(main())

"""Time of an exported model in ONNX Runtime, compared with PyTorch, on the CPU.

    python -m benchmarks.onnx_speed [--hub detr_resnet50] [--threads 2]

Both get the same images. Prints milliseconds of both, their ratio, and the largest difference of
scores and boxes.
"""

import tempfile
from pathlib import Path

import onnxruntime
import torch

from benchmarks.timing import benchmark_parser, compare_times, print_setup
from export import onnx
from export.check import compare, padded_batches
from export.source import HUB_MODELS, from_hub
from export.wrapper import ExportWrapper


@torch.no_grad()
def main() -> None:
    """Run the benchmark and print the results."""
    parser = benchmark_parser(__doc__, rounds=9)
    parser.add_argument("--hub", default="detr_resnet50", choices=HUB_MODELS, help="model")
    parser.add_argument(
        "--size_hw", type=int, nargs=2, default=(800, 1066), help="height and width of the images"
    )
    parser.add_argument("--batch_size", type=int, default=1, help="images")
    parser.add_argument("--threads", type=int, default=2, help="number of threads of both")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    wrapper = ExportWrapper(from_hub(args.hub, None).model).eval()
    batch = next(padded_batches([tuple(args.size_hw)], [args.batch_size]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(onnx.to_onnx(wrapper, batch, {}), path)
        in_onnx_runtime = onnx.load(path, args.threads)
    differences = compare(wrapper, in_onnx_runtime, *batch)  # also a warm-up of both

    print(f"onnxruntime {onnxruntime.__version__}, ", end="")
    print_setup(args.rounds)
    times = compare_times(
        {"PyTorch": lambda: wrapper(*batch), "ONNX Runtime": lambda: in_onnx_runtime(*batch)},
        args.rounds,
    )
    height, width = args.size_hw
    print(f"{args.hub}, batch {args.batch_size}, {height}x{width}: {times}; {differences}")


if __name__ == "__main__":
    main()

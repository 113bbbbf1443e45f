"""Speed of an exported model in ONNX Runtime beside the same model in PyTorch, on the CPU.

    python -m benchmarks.onnx_speed [--hub detr_resnet50] [--threads 2]

Both run in turn in this process on the same images. Prints the median time of each and the ratio,
and the largest difference of scores and boxes.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import onnxruntime
import torch

from export import onnx
from export.check import compare, padded_batches
from export.detector import Detector
from export.source import HUB_MODELS, from_hub


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hub", default="detr_resnet50", choices=HUB_MODELS, help="model")
    parser.add_argument("--size_hw", type=int, nargs=2, default=(800, 1066), help="of the images")
    parser.add_argument("--batch_size", type=int, default=1, help="images")
    parser.add_argument("--threads", type=int, default=2, help="threads of both")
    parser.add_argument("--rounds", type=int, default=9, help="calls of each")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    detector = Detector(from_hub(args.hub, None).model).eval()
    batch = next(padded_batches([tuple(args.size_hw)], [args.batch_size]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        with open(path, "wb") as file:
            onnx.write(detector, batch, {}, file)
        in_onnx_runtime = onnx.load(path, args.threads)
    difference = compare(detector, in_onnx_runtime, *batch)  # and a warm-up of both

    variants = {"PyTorch": detector, "ONNX Runtime": in_onnx_runtime}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(args.rounds):
        for name, variant in variants.items():
            start = time.perf_counter()
            variant(*batch)
            times[name].append(time.perf_counter() - start)
    in_pytorch, in_ort = (statistics.median(times[name]) for name in variants)
    height, width = args.size_hw
    print(
        f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, {args.threads} threads"
    )
    print(
        f"{args.hub}, batch {args.batch_size}, {height}x{width}: "
        f"PyTorch {in_pytorch * 1e3:.0f} ms, ONNX Runtime {in_ort * 1e3:.0f} ms, "
        f"ratio {in_pytorch / in_ort:.2f}; {difference}"
    )


if __name__ == "__main__":
    main()

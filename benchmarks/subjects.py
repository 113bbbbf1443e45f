"""The benchmarks that `python -m benchmarks` knows: modules of this folder with TITLE and cases."""

# Part of every run, about ten minutes together.
DEFAULT = (
    "inference",
    "network",
    "training_step",
    "criterion",
    "memory",
    "loader",
    "panoptic_loading",
    "annotations",
    "evaluation",
    "startup",
)
# Run if named: slow, or about a part of PyTorch instead of the original.
ON_REQUEST = (
    "coco_size",
    "query_design",
    "cuda.speed",
    "onnx_speed",
    "attention",
    "convolution",
)

"""The public names of the original's ``util.misc``, re-exported."""

from util.distributed.processes import (
    all_gather,
    get_rank,
    get_world_size,
    init_distributed_mode,
    is_dist_avail_and_initialized,
    is_main_process,
    reduce_dict,
    setup_for_distributed,
)
from util.files.checkpoint_file import save_on_master
from util.metric_logger import MetricLogger, SmoothedValue
from util.nested_tensor import NestedTensor, collate_fn, nested_tensor_from_tensor_list
from util.reproducibility.provenance import get_sha
from util.tensor_ops import accuracy, interpolate

__all__ = [
    "MetricLogger",
    "NestedTensor",
    "SmoothedValue",
    "accuracy",
    "all_gather",
    "collate_fn",
    "get_rank",
    "get_sha",
    "get_world_size",
    "init_distributed_mode",
    "interpolate",
    "is_dist_avail_and_initialized",
    "is_main_process",
    "nested_tensor_from_tensor_list",
    "reduce_dict",
    "save_on_master",
    "setup_for_distributed",
]

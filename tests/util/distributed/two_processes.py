"""One of two connected processes, started by test_distributed.py; writes what it saw as JSON."""

import argparse
import json
import math
import sys
from pathlib import Path

import torch

from util.distributed import processes as distributed
from util.files.checkpoint_file import save_on_master
from util.metric_logger import MetricLogger


def main(rendezvous: str, output: Path) -> None:
    args = argparse.Namespace(device="cpu", dist_url=rendezvous)
    distributed.init_distributed_mode(args)
    rank = distributed.get_rank()
    print("printed by the main process only")

    logger = MetricLogger()
    for step in range(3 + rank):
        logger.update(loss=torch.tensor(10.0 * rank + step))
        logger.update(class_error=math.nan if rank == 0 else step)
    if rank == 1:
        logger.update(only_here=4.0)
    logger.synchronize_between_processes()

    values = {"b": torch.tensor(float(rank)), "a": torch.tensor(10.0 + rank)}
    if rank == 1:
        values = dict(reversed(values.items()))
    seen = {
        "place": [args.rank, args.world_size, args.distributed, args.dist_backend],
        "gathered": distributed.all_gather({"rank": rank, "text": "x" * rank}),
        "average": {k: float(v) for k, v in distributed.reduce_dict(values).items()},
        "sum": {k: float(v) for k, v in distributed.reduce_dict(values, average=False).items()},
        "meters": {k: [m.count, m.total, m.global_avg] for k, m in logger.meters.items()},
    }
    save_on_master({"rank": rank}, output / "checkpoint.pth")
    (output / f"seen{rank}.json").write_text(json.dumps(seen))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

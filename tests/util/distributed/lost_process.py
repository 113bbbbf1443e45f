"""One of two connected processes; rank 1 ends in a given way, or is stuck.

Started by test_connection_faults.py: ``lost_process.py WHERE HOW TIMEOUT``.
"""

import argparse
import os
import signal
import sys
import time

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from util.cli.command_line import run_command
from util.distributed import processes as distributed
from util.errors import UserError


def end_or_hang(how: str) -> None:
    if how == "stuck":
        time.sleep(60)
    elif how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "interrupted":
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
        signal.raise_signal(signal.SIGINT)
    raise UserError("broken.jpg is no image")


def call_collective(where: str) -> None:
    if where == "all_gather":
        distributed.all_gather({"a": 1})
    elif where == "reduce_dict":
        distributed.reduce_dict({"a": torch.ones(())})


def backward(how: str) -> None:
    model = DistributedDataParallel(nn.Linear(3, 1))
    loss = model(torch.ones(2, 3)).sum()
    if distributed.get_rank() == 1:
        end_or_hang(how)
    loss.backward()


def main(where: str, how: str, timeout: int) -> None:
    args = argparse.Namespace(device="cpu", dist_url="env://", dist_timeout=timeout)
    if where == "start" and os.environ["RANK"] == "1":
        end_or_hang(how)
    with distributed.connected(args):
        print("printed by", distributed.get_rank())
        if where == "backward":
            backward(how)
        elif distributed.get_rank() == 1:
            end_or_hang(how)
        call_collective(where)
    assert not distributed.is_dist_avail_and_initialized()


if __name__ == "__main__":
    status = run_command("main.py", lambda: main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    assert not distributed.is_dist_avail_and_initialized()
    sys.exit(status)

"""Compare speed and memory with the original's algorithm: ``python -m benchmarks --help``."""

import argparse
import importlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.case import Settings, without_bf16
from benchmarks.harness.report import HEAD, as_json, setup, table_line
from benchmarks.harness.run import measure, private_cache
from benchmarks.subjects import DEFAULT, ON_REQUEST
from util.system.precision import has_fast_bf16


def main(argv: Sequence[str] | None = None) -> int:
    """Run benchmarks and print their tables.

    Args:
        argv: command line; default: ``sys.argv[1:]``.

    Returns:
        exit status: 1 if a result differs from the baseline by more than allowed.
    """
    known = (*DEFAULT, *ON_REQUEST)
    parser = _parser(known)
    args = parser.parse_args(argv)
    for name in set(args.subjects) - set(known):
        parser.error(f"unknown subject {name}; choose from {', '.join(known)}")
    if args.list:
        for name in known:
            print(f"{name}: {_module(name).TITLE}{'' if name in DEFAULT else ' (only if named)'}")
        return 0
    if args.threads:
        torch.set_num_threads(args.threads)
    run = {"setup": setup("benchmarks"), "quick": args.quick, "rows": []}
    print("\n".join(f"{key}: {value}" for key, value in run["setup"].items()))
    for name in args.subjects or DEFAULT:
        with private_cache():
            run["rows"] += _run_subject(name, Settings(args.quick, args.device), args.rounds)
        if args.json:  # after each subject, so that an interrupted run is not lost
            args.json.write_text(json.dumps(run, indent=1) + "\n")
    return 0 if all(row["is_equal"] for row in run["rows"]) else 1


def _parser(known: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare speed and memory with the original's algorithm (benchmarks/original).",
    )
    add = parser.add_argument
    add("subjects", nargs="*", metavar="SUBJECT", help=f"one of {', '.join(known)}")
    add("--list", action="store_true", help="print the subjects")
    add("--quick", action="store_true", help="tiny sizes: a test, the numbers mean nothing")
    add("--rounds", type=int, help="measured calls per variant (default: set by each case)")
    add("--threads", type=int, help="number of PyTorch threads (default: PyTorch's)")
    add("--device", default="cpu", choices=["cpu", "cuda"], help="device of the models")
    add("--json", type=Path, metavar="FILE", help="write all measured numbers")
    return parser


def _run_subject(name: str, settings: Settings, rounds: int | None) -> list[dict[str, Any]]:
    """Measure all cases of a subject; print each row as soon as it is measured."""
    module, start = _module(name), time.monotonic()
    print(f"\n## {module.TITLE}\n", flush=True)
    leave_out = not settings.quick and not has_fast_bf16(torch.device(settings.device))
    if leave_out and getattr(module, "NEEDS_FAST_BF16", False):
        print(f"left out: no fast bf16 on this {settings.device}")
        return []
    print(HEAD, flush=True)
    rows = []
    for case in module.cases(settings):
        if leave_out:
            case = without_bf16(case)
        for row in measure(case, 1 if settings.quick else rounds):
            print(table_line(row), flush=True)
            rows.append(as_json(row, name))
    print(f"\n{name}: {time.monotonic() - start:.0f} s")
    return rows


def _module(name: str) -> Any:
    return importlib.import_module(f"benchmarks.{name}")


if __name__ == "__main__":
    sys.exit(main())

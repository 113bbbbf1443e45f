"""Machine and versions of a run, and its results as a Markdown table and as JSON."""

import importlib.metadata
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.run import Row
from util.reproducibility.provenance import versions

HEAD = (
    "| case | threads | variant | baseline | this project | ratio (quartiles) | max difference |\n"
    "|---|---|---|---|---|---|---|"
)


def setup(command: str) -> dict[str, Any]:
    """Processor, GPU, threads, load, versions and commit of this process, and its command."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        **versions(),
        "onnxruntime": importlib.metadata.version("onnxruntime"),
        "command": " ".join([f"python -m {command}", *sys.argv[1:]]),
    }


def _processor() -> str:
    """Name of the processor, with the instruction sets that matter for low precision."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    entries = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in entries.items()}
    flags = set(named.get("flags", "").split())
    found = [name for name in ("avx512f", "avx512_bf16", "amx_bf16", "amx_int8") if name in flags]
    return ", ".join([named.get("model name", platform.machine()), *found])


def quantity(value: float, unit: str) -> str:
    """Three significant digits, or all digits before the point; long times in seconds.

    >>> quantity(0.81234, "ms"), quantity(1234.5, "ms"), quantity(63910, "ms")
    ('0.812 ms', '1234 ms', '63.9 s')
    """
    if unit == "ms" and value >= 10_000:
        value, unit = value / 1000, "s"
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def table_line(row: Row) -> str:
    """A line of the table under `HEAD`."""
    baseline, ours = (statistics.median(v) for v in (row.baseline_values, row.values))
    spread = "" if row.rounds == 1 else " ({:.2f} to {:.2f})".format(*row.ratio_range)
    difference = f"{row.difference:.1e}" + ("" if row.is_equal else f" **above {row.tolerance:g}**")
    cells = (
        row.case,
        str(row.threads),
        row.variant,
        quantity(baseline, row.unit),
        quantity(ours, row.unit),
        f"**{row.ratio:.2f}**{spread}",
        difference,
    )
    return f"| {' | '.join(cells)} |"


def as_json(row: Row, subject: str) -> dict[str, Any]:
    """All fields of a row, its medians, and its ratio."""
    return {
        "subject": subject,
        **row._asdict(),
        "baseline_median": statistics.median(row.baseline_values),
        "median": statistics.median(row.values),
        "ratio": row.ratio,
        "ratio_quartiles": row.ratio_range,
        "is_equal": row.is_equal,
    }

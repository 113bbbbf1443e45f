"""Write the report at the end of a run; its errors are printed, not raised."""

from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from util.distributed.processes import is_main_process


def write_report_at_end(
    folder: Path | None, val_set: Any, ground_truth: COCO, train_set: Any
) -> None:
    """Write the report of a finished run; if this fails, print the reason in one line.

    Args:
        folder: output folder; None: no report. Only rank 0 writes.
        val_set: validation data.
        ground_truth: annotations of ``val_set``.
    """
    if folder is None or not is_main_process():
        return
    try:
        from report.ground_truth import GroundTruth
        from report.write import report_run

        written = report_run(folder, {}, GroundTruth.of(val_set, ground_truth, train_set))
        print(f"Report: {written.path}")
    except Exception as error:  # must not turn a finished run into a failed one
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"Warning: report not written ({reason}); try again with python -m report {folder}")

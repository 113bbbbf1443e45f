"""Write the report of a run from its output folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from report.ground_truth import GroundTruth, read_ground_truth
from report.results import discard_other_data, read_results
from report.write import write_report
from util.errors import UserError


class WrittenReport(NamedTuple):
    """A report: path of the HTML file, and a sentence for each missing part."""

    path: Path
    missing: list[str]


def report_run(
    folder: Path, data_flags: Mapping[str, Any], ground_truth: GroundTruth | None = None
) -> WrittenReport:
    """Write the report of a run.

    Args:
        ground_truth: annotations; None: they are read from the data of the run.

    Raises:
        UserError: if the folder does not exist or contains no results.
    """
    results = read_results(folder)
    if ground_truth is None:
        try:
            ground_truth = read_ground_truth(
                results.data_flags, results.names, data_flags, results.split
            )
        except UserError as error:
            results.missing.append(f"Ground truth and images: {error}")
    if ground_truth is not None:
        discard_other_data(results, ground_truth)
    return WrittenReport(write_report(results, ground_truth), results.missing)

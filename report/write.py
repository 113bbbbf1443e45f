"""Write ``report.html`` and the figures of a run, from its output folder."""

import datetime
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets.annotations.coco_file import category_names
from datasets.evaluation.evaluated_data import data_flags_text
from datasets.evaluation.matching import OperatingPoint
from report.analysis import Analysis, SavedEvaluation, analyze, top_confusions
from report.attention import attention_samples
from report.curves import epoch_figures, points_of
from report.ground_truth import GroundTruth, read_ground_truth
from report.page import Section, Table, render
from report.plotting import Figure, save_figure
from report.quality import Names, detection_figures, evaluation_figures
from report.results import DETECTIONS, Results, discard_other_data, read_results
from report.statistics import SplitCounts, data_figures, split_counts
from report.worst_images import worst_images
from util.errors import UserError
from util.files.checkpoint_file import atomic_write

REPORT, FIGURES = "report.html", "figures"
_PICTURES_TEXT = (
    "Each pair: ground truth, then detections with a score of {:.2f} or more. Dashed, with !: "
    "objects without a correct detection, and false detections."
)


def write_report(results: Results, ground_truth: GroundTruth | None) -> Path:
    """Write ``report.html``, and all figures as PNG and SVG to ``figures/``.

    Args:
        ground_truth: annotations of its data; None: not available.

    Returns:
        path of the HTML file.
    """
    folder = results.folder / FIGURES
    folder.mkdir(exist_ok=True)
    names = _names(results, ground_truth)
    evaluation = None if results.evaluation is None else SavedEvaluation(results.evaluation)
    analysis = None
    if results.detections is not None and ground_truth is not None:
        analysis = analyze(ground_truth.val, results.detections)
    sections = [
        Section("Training", figures=_saved(epoch_figures(results.log), folder)),
        _quality_section(_data_of(results), evaluation, analysis, names, folder),
        *_error_sections(analysis, ground_truth, names, folder),
        _attention_section(results, ground_truth),
        _data_section(ground_truth, names, folder),
        Section("Next commands", commands=_commands(results)),
        Section("Flags", values=_text_values(results.flags)),
        Section("Versions", values=_text_values(results.versions)),
    ]
    page = render(
        f"Report of {results.folder.resolve().name}",
        f"{results.folder.resolve()} · written {datetime.datetime.now():%Y-%m-%d %H:%M}",
        _key_figures(results, evaluation, analysis),
        results.missing,
        [section for section in sections if _has_content(section)],
    )
    path = results.folder / REPORT
    with atomic_write(path, "w") as file:
        file.write(page)
    return path


def _names(results: Results, ground_truth: GroundTruth | None) -> Names:
    """Class names by category id, from the checkpoint or else from the ground truth."""
    if results.names or ground_truth is None:
        return results.names
    return category_names(ground_truth.val.cats.values())


def _saved(figures: Sequence[Figure], folder: Path) -> list[tuple[Figure, str]]:
    """Save figures, and return them with their `<svg>` elements, wide figures last."""
    drawn = [(figure, save_figure(figure, folder)) for figure in figures]
    return sorted(drawn, key=lambda pair: pair[0].is_wide)


def _has_content(section: Section) -> bool:
    parts = (section.figures, section.tables, section.images, section.commands, section.values)
    return any(parts)


def _key_figures(
    results: Results, evaluation: SavedEvaluation | None, analysis: Analysis | None
) -> dict[str, str]:
    """Key numbers by name."""
    key_figures: dict[str, str] = {}
    epochs, scores = points_of(results.log, "test_coco_eval_bbox", 0)
    if results.log:
        key_figures["epochs"] = str(len(results.log))
    if scores:
        best = max(range(len(scores)), key=lambda index: scores[index])
        key_figures["best AP"] = f"{scores[best]:.3f}"
        key_figures["best epoch"] = str(epochs[best])
        last = points_of(results.log, "test_coco_eval_bbox", 1)[1]
        key_figures["AP50, same epoch"] = f"{last[best]:.3f}"
    elif evaluation is not None:
        key_figures["AP"] = f"{evaluation.by_size().get('all', float('nan')):.3f}"
    if analysis is not None and analysis.best is not None:
        key_figures["best F1"] = f"{analysis.best.f1:.3f}"
        key_figures["at threshold"] = f"{analysis.best.threshold:.2f}"
    seconds = points_of(results.log, "train_time")[1]
    if seconds:
        key_figures["training time"] = str(datetime.timedelta(seconds=round(sum(seconds))))
    return key_figures


def _data_of(results: Results) -> str:
    """Data flags of the newest evaluation; empty if unknown."""
    evaluated = results.evaluated.get(DETECTIONS)
    if evaluated is None or results.detections is None:
        return ""
    return data_flags_text(evaluated.flags)


def _quality_section(
    data: str,
    evaluation: SavedEvaluation | None,
    analysis: Analysis | None,
    names: Names,
    folder: Path,
) -> Section:
    figures = [] if evaluation is None else evaluation_figures(evaluation, names)
    if analysis is not None:
        figures += detection_figures(analysis, names)
    tables = [_class_table(evaluation, analysis, names)] if evaluation or analysis else []
    on_data = f" on {data}" if data else ""
    text = f"Newest evaluation{on_data}, of the raw (not averaged) weights."
    return Section("Evaluation", text, _saved(figures, folder), tables)


def _class_table(
    evaluation: SavedEvaluation | None, analysis: Analysis | None, names: Names
) -> Table:
    """AP, and the best threshold with its precision, recall and F1, by class."""
    by_class = {} if evaluation is None else evaluation.by_class()
    points = {} if analysis is None else analysis.by_class
    objects = {} if analysis is None else analysis.matches.num_objects
    header = ("class", "objects", "AP", "AP50", "AP75", "best threshold", "precision", "recall")
    rows = [
        [
            names.get(i, i),
            f"{objects[i]:,}" if i in objects else "–",
            *([f"{value:.3f}" for value in by_class[i]] if i in by_class else ["–"] * 3),
            *_point_cells(points.get(i)),
        ]
        for i in dict.fromkeys([*by_class, *points])
    ]
    title = "By class; threshold with the best F1 at IoU 0.5"
    if analysis is not None:
        rows.append(["all together", f"{sum(objects.values()):,}", *["–"] * 3])
        rows[-1] += _point_cells(analysis.best)
    return Table(title, (*header, "F1"), rows)


def _point_cells(point: OperatingPoint | None) -> list[str]:
    return (
        ["–"] * 4 if point is None else [f"{point.threshold:.2f}", *(f"{v:.3f}" for v in point[1:])]
    )


def _error_sections(
    analysis: Analysis | None, ground_truth: GroundTruth | None, names: Names, folder: Path
) -> list[Section]:
    """Most frequent confusions, and the worst images."""
    if analysis is None or ground_truth is None:
        return []
    rows = [
        (f"{names.get(true, true)}", f"{names.get(found, found)}", count)
        for count, true, found in top_confusions(analysis.confusion)
    ]
    tables = [Table("Most frequent confusions", ("object", "detected as", "times"), rows)]
    images = worst_images(analysis.errors, ground_truth, names)
    text = _PICTURES_TEXT.format(analysis.threshold) if images else ""
    return [Section("Errors and worst images", text, tables=tables if rows else [], images=images)]


def _attention_section(results: Results, ground_truth: GroundTruth | None) -> Section:
    if results.checkpoint is None or ground_truth is None:
        return Section("Attention")
    return Section("Attention", images=attention_samples(results.checkpoint, ground_truth))


def _data_section(ground_truth: GroundTruth | None, names: Names, folder: Path) -> Section:
    if ground_truth is None:
        return Section("Data")
    splits: dict[str, SplitCounts] = {}
    if ground_truth.train is not None:
        splits["training"] = split_counts(ground_truth.train)
    splits["validation"] = split_counts(ground_truth.val)
    columns = {name: split.rows() for name, split in splits.items()}
    rows = [[row, *(columns[name][row] for name in columns)] for row in columns["validation"]]
    figures = _saved(data_figures(splits, names), folder)
    return Section("Data", figures=figures, tables=[Table("Numbers", ["", *columns], rows)])


def _commands(results: Results) -> dict[str, str]:
    """Commands to continue, evaluate and predict."""
    if results.checkpoint is None:
        return {}
    folder, checkpoint = shlex.quote(str(results.folder)), shlex.quote(str(results.checkpoint))
    epochs = results.flags.get("epochs")
    more = f" --epochs {2 * epochs}" if isinstance(epochs, int) else ""
    return {
        "Continue training": f"python main.py --output_dir {folder} --auto_resume{more}",
        "Evaluate": f"python main.py --eval --resume {checkpoint}",
        "Predict": f"python predict.py IMAGES --checkpoint {checkpoint} --output_dir predictions",
        "Draw attention maps": f"python predict.py IMAGES --checkpoint {checkpoint} "
        "--output_dir attention --attention",
    }


def _text_values(values: Mapping[str, Any]) -> dict[str, str]:
    return {
        str(name): " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        for name, value in sorted(values.items(), key=lambda item: str(item[0]))
    }


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

"""Convert the errors of `datasets.annotations.checks.check_annotations` to findings."""

from collections.abc import Mapping

from datasets.annotations.coco_file import TEXT_ID, Row
from datasets.annotations.file_checks import NO_FILE
from datasets.annotations.problems import AnnotationFileError, Problem
from datasets.check.findings import EXAMPLES_KEPT, Example, Findings, id_of
from util.errors import UserError
from util.text import in_short


def add_rejections(findings: Findings, rejection: UserError, file_names: Mapping[int, str]) -> None:
    """Add each problem for which training rejects the annotation file.

    Args:
        findings: findings of the split; missing files are not added twice.
        rejection: error raised by the check.
        file_names: file name of each image id.
    """
    if not isinstance(rejection, AnnotationFileError):
        findings.add("refused", Example(), str(rejection))
        return
    for problem in rejection.problems:
        if problem.text.startswith(NO_FILE) and findings.has("missing_file"):
            continue
        examples = [_example(problem, row, file_names) for row in problem.rows[:EXAMPLES_KEPT]]
        text = f"{problem.table} {problem.text}"
        text += f"; {problem.fix}" if problem.fix else ""
        findings.add_many("refused", len(problem.rows), examples, text)


def _example(problem: Problem, row: Row, file_names: Mapping[int, str]) -> Example:
    field, number = problem.field, id_of(row.get(TEXT_ID, row.get("id")))
    detail = "" if field is None else f"{field} {in_short(row.get(field))}"
    if problem.table == "categories":
        return Example(category_id=number, detail=detail)
    if problem.table == "images":
        image_id, annotation_id = number, None
    else:
        image_id, annotation_id = id_of(row.get("image_id")), number
    name = file_names.get(image_id) if isinstance(image_id, int) else None
    return Example(image_id, annotation_id, file_name=name, detail=detail)

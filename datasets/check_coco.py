"""One split in COCO's instance format under check.

The rules for annotation files are those of `datasets.annotation_checks`, which training applies.
Other formats need a function like `check_coco_split`: what it returns is all that a report and a
comparison of splits ask for.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from datasets import annotation_checks as rules
from datasets.annotations import (
    Row,
    are_numbers,
    is_integer,
    load_annotations,
)
from datasets.check_boxes import Boxes, check_boxes
from datasets.check_facts import ClassCount, Split, SplitFacts, count_by_size
from datasets.check_findings import Example, Findings, id_of
from datasets.check_images import ListedImage, survey_images
from datasets.check_masks import check_masks
from util.errors import UserError

# No image is wider; a larger number in a file would not even fit into a float.
_WIDEST = 2**31


class Settings(NamedTuple):
    """What a check is to look at.

    Attributes:
        num_queries: objects that the model can find in an image.
        num_classes: category ids must be below this; None: any number of classes.
        masks: whether segmentations are needed too.
        open_images: whether image files are decoded.
        num_workers: threads for that; with 0 the caller's thread does it.
    """

    num_queries: int = 100
    num_classes: int | None = None
    masks: bool = False
    open_images: bool = True
    num_workers: int = 2


class CocoSplit(NamedTuple):
    """A checked split.

    Attributes:
        facts: counts and findings.
        annotations: the usable ones, for pictures.
    """

    facts: SplitFacts
    annotations: list[Row]


def check_coco_split(split: Split, settings: Settings) -> CocoSplit:
    """Check the annotation file of a split, its boxes and its image files.

    Raises:
        UserError: the annotation file cannot be read, or the image folder is not there.
    """
    rules.check_image_folder(split.img_folder)
    data = load_annotations(split.ann_file)
    findings = Findings(split.name)
    _check_against_rules(findings, data, split, settings)
    facts = SplitFacts(split, _listed_images(data, split), _classes(data))
    facts.num_annotations = len(data["annotations"])
    _check_paths(findings, facts)
    _check_class_names(findings, facts)
    if settings.open_images:
        listed = list(facts.images.values())
        title = f"{split.name} images"
        facts.survey = survey_images(listed, findings, settings.num_workers, title)
    facts.sizes_wh = {i: image.size_wh for i, image in facts.images.items() if image.size_wh}
    facts.sizes_wh |= facts.survey.sizes_wh if facts.survey else {}
    usable = [row for row in data["annotations"] if _is_usable(row, facts)]
    _check_annotations(findings, facts, usable, settings)
    facts.findings = findings.all()
    return CocoSplit(facts, usable)

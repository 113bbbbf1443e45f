"""Reading an annotation file with polygons: pycocotools' index, and this project's checked arrays.

This project is measured without an entry in its cache and with one. Memory is the growth of the
peak of a new process.
"""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.coco import write_annotations
from benchmarks.harness.measures import CHILD_MEMORY
from benchmarks.original.dataset import load_index
from datasets.annotations.compact.cache import cache_folder
from datasets.coco import CocoDetection

TITLE = "Reading annotations"


def cases(settings: Settings) -> Iterator[Case]:
    """A file of the size of COCO's validation set."""
    num_images = 10 if settings.quick else 5000
    with tempfile.TemporaryDirectory() as name:
        ann_file = write_annotations(Path(name), num_images)
        yield Case(f"{num_images} images", variants(ann_file), rounds=5)
        if not settings.quick:
            yield Case(f"{num_images} images", variants(ann_file), 1, measure=CHILD_MEMORY)


def variants(ann_file: Path) -> dict[str, Callable[[], int]]:
    """Functions that read a file of `write_annotations` and return the number of images."""
    return {
        "original": partial(_read_as_original, ann_file),
        "first time": partial(_read, ann_file, is_cached=False),
        "cached": partial(_read, ann_file, is_cached=True),
    }


def _read_as_original(ann_file: Path) -> int:
    return len(load_index(ann_file).imgs)


def _read(ann_file: Path, is_cached: bool) -> int:
    if not is_cached:
        shutil.rmtree(cache_folder(), ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()):
        return len(CocoDetection(ann_file.parent / "images", ann_file, None, return_masks=False))

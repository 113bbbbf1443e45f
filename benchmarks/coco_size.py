"""Time and memory of annotations of COCO's size: 118,287 images with 860,001 objects.

The original reads the file with json and, for instances, builds pycocotools' index. This project is
measured without an entry in its cache, and with one. Every variant runs in processes of its own. A
pass converts the annotations of all images to targets, without images, in a DataLoader worker. The
files are made with a fixed seed; the image files are empty.

Memory is above that of the same process before it reads the file. Peak and resident memory count
pages that processes share in each; the growth of a worker is its private memory.
"""

import contextlib
import io
import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.queues import Queue
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.large_annotations import HEIGHT, WIDTH, write_files
from benchmarks.harness.measures import returned
from datasets.annotations.compact.cache import cache_folder

TITLE = "Annotations of COCO's size"
_SIZE, _QUICK_SIZE = (118_287, 860_001), (60, 430)  # images and objects; COCO train2017
_NUM_RANKS, _NUM_WORKERS = 2, 2
_MB = 1e6
_LIMIT = 600  # seconds for a measurement
_SPAWN, _FORK = multiprocessing.get_context("spawn"), multiprocessing.get_context("fork")
_QUANTITIES = {
    "index_s": ("reading", "s"),
    "peak_mb": ("peak memory", "MB"),
    "resident_mb": ("resident memory", "MB"),
    "pass_s": ("a pass in a worker", "s"),
    "worker_private_mb": ("growth of the worker in a pass", "MB"),
    "all_processes_mb": (f"{_NUM_RANKS} ranks with {_NUM_WORKERS} workers each, together", "MB"),
}


def cases(settings: Settings) -> Iterator[Case]:
    """Each quantity for instances and for panoptic annotations; measured once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "coco"
        write_files(folder, *(_QUICK_SIZE if settings.quick else _SIZE))
        for kind in KINDS:
            measured = _measure_variants(kind, folder)
            for quantity, (title, unit) in _QUANTITIES.items():
                variants: dict[str, Callable[[], float]] = {
                    variant: lambda value=found[quantity]: value  # type: ignore[misc]
                    for variant, found in measured.items()
                    if quantity in found
                }
                yield Case(f"{kind}: {title}", variants, rounds=1, measure=returned(unit))


def _measure_variants(kind: str, folder: Path) -> dict[str, dict[str, float]]:
    """Measured quantities by variant; ``all_processes_mb`` only of the original and the cache."""
    original, ours = KINDS[kind]
    measured = {"original": measure(original, folder)}
    shutil.rmtree(cache_folder(), ignore_errors=True)
    measured["first time"] = measure(ours, folder)
    measured["cached"] = measure(ours, folder)
    imports = total_memory(_do_nothing, folder)
    for variant, read in (("original", original), ("cached", ours)):
        measured[variant]["all_processes_mb"] = total_memory(read, folder) - imports
    return measured


class Annotations(Protocol):
    """Annotations of a file, by image."""

    ids: Sequence[int]

    def rows(self, index: int) -> list[dict[str, Any]]:
        """Annotations of the image at an index; of panoptic data its segments."""


class OriginalInstances:
    """pycocotools' index, as in the original."""

    def __init__(self, folder: Path) -> None:
        from pycocotools.coco import COCO

        with contextlib.redirect_stdout(io.StringIO()):
            self._coco = COCO(str(folder / "instances.json"))
        self.ids = sorted(self._coco.imgs)

    def rows(self, index: int) -> list[dict[str, Any]]:
        return self._coco.loadAnns(self._coco.getAnnIds(self.ids[index]))


class OriginalPanoptic:
    """The tables in memory, sorted by image, as in the original."""

    def __init__(self, folder: Path) -> None:
        with open(folder / "panoptic.json") as file:
            coco = json.load(file)
        coco["images"] = sorted(coco["images"], key=lambda row: row["id"])
        coco["annotations"] = sorted(coco["annotations"], key=lambda row: row["image_id"])
        self._coco = coco
        self.ids = [row["id"] for row in coco["images"]]

    def rows(self, index: int) -> list[dict[str, Any]]:
        return self._coco["annotations"][index]["segments_info"]


class OurInstances:
    """`CocoDetection`, with all its checks."""

    def __init__(self, folder: Path) -> None:
        from datasets.coco import CocoDetection

        files = folder / "images", folder / "instances.json"
        with contextlib.redirect_stdout(io.StringIO()):
            self._data = CocoDetection(*files, None, False, training=True, num_queries=100)
        self.ids = self._data.ids

    def rows(self, index: int) -> list[dict[str, Any]]:
        return self._data.instances.annotations_of(self.ids[index])


class OurPanoptic:
    """`CocoPanoptic`, with all its checks."""

    def __init__(self, folder: Path) -> None:
        from datasets.coco_panoptic import CocoPanoptic

        images = folder / "images"
        with contextlib.redirect_stdout(io.StringIO()):
            self._data = CocoPanoptic(images, images, folder / "panoptic.json", training=True)
        self.ids = self._data.ids

    def rows(self, index: int) -> list[dict[str, Any]]:
        return self._data.segments.map_of(self.ids[index])["segments_info"]


KINDS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "instances": (OriginalInstances, OurInstances),
    "panoptic": (OriginalPanoptic, OurPanoptic),
}


def memory() -> dict[str, float]:
    """Memory of this process in MB: resident, its highest value, private and proportional."""
    fields = {}
    for name in ("smaps_rollup", "status"):
        for line in Path(f"/proc/self/{name}").read_text().splitlines():
            key, _, value = line.partition(":")
            if value.endswith(" kB"):
                fields[key] = int(value.split()[0]) * 1024 / _MB
    private = fields["Private_Clean"] + fields["Private_Dirty"]
    return {"rss": fields["Rss"], "peak": fields["VmHWM"], "pss": fields["Pss"], "private": private}


def make_targets(annotations: Annotations, indices: range) -> None:
    """Convert annotations to targets, and drop them."""
    from datasets.coco import ConvertCocoPolysToMask

    prepare = ConvertCocoPolysToMask()
    image: Any = SimpleNamespace(size=(WIDTH, HEIGHT))
    for index in indices:
        rows = annotations.rows(index)
        prepare(image, {"image_id": annotations.ids[index], "annotations": rows})


def _import_all() -> None:
    """Import everything that the variants use, so that it is not part of their memory."""
    import datasets.coco_panoptic  # noqa: F401


def _measure(read: Callable[[Path], Annotations], folder: Path, results: Queue) -> None:
    """Measure reading in this process, and a pass in a worker."""
    _import_all()
    before, start = memory(), time.perf_counter()
    annotations = read(folder)
    seconds, after = time.perf_counter() - start, memory()
    worker = _FORK.Process(target=_measure_pass, args=(annotations, results))
    worker.start()
    results.put(
        {
            "index_s": seconds,
            "peak_mb": after["peak"] - before["rss"],
            "resident_mb": after["rss"] - before["rss"],
        }
    )
    worker.join()


def _measure_pass(annotations: Annotations, results: Queue) -> None:
    make_targets(annotations, range(10))
    before, start = memory(), time.perf_counter()
    make_targets(annotations, range(len(annotations.ids)))
    seconds, after = time.perf_counter() - start, memory()
    grown = {f"worker_{name}_mb": after[name] - before[name] for name in ("private", "rss")}
    results.put({"pass_s": seconds, **grown})


def measure(read: Callable[[Path], Annotations], folder: Path) -> dict[str, float]:
    """Measure a variant in a new process."""
    results: Queue = _SPAWN.Queue()
    process = _SPAWN.Process(target=_measure, args=(read, folder, results))
    process.start()
    found = {**results.get(timeout=_LIMIT), **results.get(timeout=_LIMIT)}
    process.join()
    return found


def _run_rank(
    read: Callable[[Path], Annotations], folder: Path, results: Queue, barrier: Any
) -> None:
    """A rank with its workers: each does its part of a pass."""
    _import_all()
    annotations = read(folder)
    workers = [
        _FORK.Process(target=_run_worker, args=(annotations, k, results, barrier))
        for k in range(_NUM_WORKERS)
    ]
    for worker in workers:
        worker.start()
    _report_together(results, barrier)
    for worker in workers:
        worker.join()


def _run_worker(annotations: Annotations, number: int, results: Queue, barrier: Any) -> None:
    make_targets(annotations, range(number, len(annotations.ids), _NUM_WORKERS))
    _report_together(results, barrier)


def _report_together(results: Queue, barrier: Any) -> None:
    """Report the proportional memory once every process has come this far."""
    barrier.wait()
    results.put(memory()["pss"])
    barrier.wait()


def _do_nothing(folder: Path) -> Any:
    return SimpleNamespace(ids=[], rows=None)


def total_memory(read: Callable[[Path], Annotations], folder: Path) -> float:
    """Memory in MB of all ranks and workers, shared pages counted once."""
    results: Queue = _SPAWN.Queue()
    count = _NUM_RANKS * (1 + _NUM_WORKERS)
    barrier = _SPAWN.Barrier(count)
    ranks = [
        _SPAWN.Process(target=_run_rank, args=(read, folder, results, barrier))
        for _ in range(_NUM_RANKS)
    ]
    for rank in ranks:
        rank.start()
    total = sum(results.get(timeout=_LIMIT) for _ in range(count))
    for rank in ranks:
        rank.join()
    return total

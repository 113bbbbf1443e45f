"""Time and memory of annotations of COCO's size, against the original's algorithm.

The original reads the file with json and, for instances, builds pycocotools' index. Ours is
measured twice: without an entry in the cache, and with one. Every measurement runs in processes of
its own, the variants in turn. A pass converts the annotations of all images to targets, without
images, in a data worker. The files are made with a fixed seed; the image files are empty.

Memory is above that of the same process before it reads the file. Peak and resident memory count
pages that processes share in each; the growth of a worker is its private memory.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.queues import Queue
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch

NUM_IMAGES, NUM_OBJECTS = 118_287, 860_001  # COCO train2017
NUM_CLASSES, WIDTH, HEIGHT = 90, 640, 480
SMALL = 20  # --small: this fraction of the images
NUM_RANKS, NUM_WORKERS = 2, 2
MB = 1e6
_LIMIT = 600  # seconds for a measurement

SPAWN, FORK = multiprocessing.get_context("spawn"), multiprocessing.get_context("fork")


# ---- files ---------------------------------------------------------------------------------------


def write_files(folder: Path, num_images: int, num_objects: int) -> None:
    """Write ``instances.json``, ``panoptic.json`` and empty images and segment maps."""
    rng = np.random.default_rng(0)
    image_of = rng.integers(1, num_images + 1, num_objects)
    (folder / "images").mkdir(parents=True)
    images = [_image(number) for number in range(1, num_images + 1)]
    for image in images:
        (folder / "images" / image["file_name"]).touch()
    instances = (_instance(rng, k, image_of[k]) for k in range(num_objects))
    _write(folder / "instances.json", images, instances)
    counts = np.bincount(image_of, minlength=num_images + 1)
    maps = (_map(rng, image, 2 + counts[image["id"]]) for image in images)
    _write(folder / "panoptic.json", images, maps)


def _write(path: Path, images: Sequence[Any], annotations: Iterator[Any]) -> None:
    categories = [{"id": k, "name": f"class {k}", "isthing": 1} for k in range(1, NUM_CLASSES + 1)]
    with open(path, "w") as file:
        file.write(f'{{"info": {{"year": 2017}}, "images": {json.dumps(images)}, "annotations": [')
        for number, row in enumerate(annotations):
            file.write(", " * bool(number) + json.dumps(row))
        file.write(f'], "categories": {json.dumps(categories)}}}')


def _image(number: int) -> dict[str, Any]:
    name = f"{number:012d}.jpg"
    return {
        "license": 3,
        "file_name": name,
        "coco_url": f"http://images.cocodataset.org/train2017/{name}",
        "height": HEIGHT,
        "width": WIDTH,
        "date_captured": "2013-11-14 11:18:45",
        "flickr_url": "http://farm9.staticflickr.com/8186/8119368305_4e622c8349_z.jpg",
        "id": number,
    }


def _instance(rng: np.random.Generator, index: int, image_id: int) -> dict[str, Any]:
    """An object: a polygon around a center, with two decimals, as in COCO; one in 80 is a crowd."""
    num_points = 3 + min(int(rng.gamma(2.0, 6.5)), 400)
    angles = np.sort(rng.random(num_points)) * 2 * np.pi
    radii = rng.uniform(5, 150) * rng.uniform(0.6, 1.0, num_points)
    points = np.stack([WIDTH / 2 + radii * np.cos(angles), HEIGHT / 2 + radii * np.sin(angles)], 1)
    points = points.clip(0, [WIDTH, HEIGHT])
    low, extent = points.min(0), np.ptp(points, axis=0)
    is_crowd = index % 80 == 0
    shape: Any = [points.round(2).ravel().tolist()]
    if is_crowd:
        shape = {"counts": [WIDTH * HEIGHT // 2, WIDTH * HEIGHT // 2], "size": [HEIGHT, WIDTH]}
    return {
        "segmentation": shape,
        "area": round(float(extent.prod()) * 0.7, 4),
        "iscrowd": int(is_crowd),
        "image_id": int(image_id),
        "bbox": [*low.round(2).tolist(), *extent.round(2).tolist()],
        "category_id": int(rng.integers(1, NUM_CLASSES + 1)),
        "id": index + 1,
    }


def _map(rng: np.random.Generator, image: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Segments of an image."""
    ids = rng.choice(2**24 - 1, count, replace=False) + 1
    segments = [
        {
            "id": int(number),
            "category_id": int(rng.integers(1, NUM_CLASSES + 1)),
            "iscrowd": 0,
            "bbox": rng.integers(0, HEIGHT, 4).tolist(),
            "area": int(rng.integers(1, 100_000)),
        }
        for number in ids
    ]
    name = image["file_name"]
    return {"segments_info": segments, "file_name": name, "image_id": image["id"]}


# ---- variants ------------------------------------------------------------------------------------


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


KINDS: dict[str, tuple[Callable[[Path], Annotations], Callable[[Path], Annotations]]] = {
    "instances": (OriginalInstances, OurInstances),
    "panoptic": (OriginalPanoptic, OurPanoptic),
}
ORIGINAL, FIRST, CACHED = "original", "ours, first time", "ours, cached"


# ---- measurements --------------------------------------------------------------------------------


def memory() -> dict[str, float]:
    """Memory of this process in MB: resident, its highest value, private and proportional."""
    fields = {}
    for name in ("smaps_rollup", "status"):
        for line in Path(f"/proc/self/{name}").read_text().splitlines():
            key, _, value = line.partition(":")
            if value.endswith(" kB"):
                fields[key] = int(value.split()[0]) * 1024 / MB
    private = fields["Private_Clean"] + fields["Private_Dirty"]
    return {"rss": fields["Rss"], "peak": fields["VmHWM"], "pss": fields["Pss"], "private": private}


def make_targets(annotations: Annotations, indices: range) -> None:
    """Convert annotations to targets, and drop them."""
    from datasets.coco import ConvertCocoPolysToMask

    prepare, image = ConvertCocoPolysToMask(), SimpleNamespace(size=(WIDTH, HEIGHT))
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
    worker = FORK.Process(target=_measure_pass, args=(annotations, results))
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
    results: Queue = SPAWN.Queue()
    process = SPAWN.Process(target=_measure, args=(read, folder, results))
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
        FORK.Process(target=_run_worker, args=(annotations, k, results, barrier))
        for k in range(NUM_WORKERS)
    ]
    for worker in workers:
        worker.start()
    _report_together(results, barrier)
    for worker in workers:
        worker.join()


def _run_worker(annotations: Annotations, number: int, results: Queue, barrier: Any) -> None:
    make_targets(annotations, range(number, len(annotations.ids), NUM_WORKERS))
    _report_together(results, barrier)


def _report_together(results: Queue, barrier: Any) -> None:
    """Report the proportional memory once every process has come this far."""
    barrier.wait()
    results.put(memory()["pss"])
    barrier.wait()


def _do_nothing(folder: Path) -> Annotations:
    return SimpleNamespace(ids=[], rows=None)  # type: ignore[return-value]


def total_memory(read: Callable[[Path], Annotations], folder: Path) -> float:
    """Memory in MB of all ranks and workers, shared pages counted once."""
    results: Queue = SPAWN.Queue()
    count = NUM_RANKS * (1 + NUM_WORKERS)
    barrier = SPAWN.Barrier(count)
    ranks = [
        SPAWN.Process(target=_run_rank, args=(read, folder, results, barrier))
        for _ in range(NUM_RANKS)
    ]
    for rank in ranks:
        rank.start()
    total = sum(results.get(timeout=_LIMIT) for _ in range(count))
    for rank in ranks:
        rank.join()
    return total


# ---- command -------------------------------------------------------------------------------------


def compare(kind: str, folder: Path, rounds: int, total: bool) -> dict[str, dict[str, float]]:
    """Measure the variants in turn; return the medians by variant.

    Args:
        kind: key of `KINDS`.
        folder: see `write_files`.
        rounds: number of measurements of each variant.
        total: also measure several ranks.
    """
    original, ours = KINDS[kind]
    found: dict[str, list[dict[str, float]]] = {ORIGINAL: [], FIRST: [], CACHED: []}
    for _ in range(rounds):
        shutil.rmtree(folder / "cache", ignore_errors=True)
        for variant, read in ((ORIGINAL, original), (FIRST, ours), (CACHED, ours)):
            found[variant].append(measure(read, folder))
    medians = {
        variant: {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        for variant, rows in found.items()
    }
    if total:
        imports = total_memory(_do_nothing, folder)
        for variant, read in ((ORIGINAL, original), (CACHED, ours)):
            medians[variant]["all_processes_mb"] = total_memory(read, folder) - imports
    return medians


ROWS = {
    "index_s": "index [s]",
    "peak_mb": "peak memory [MB]",
    "resident_mb": "resident memory [MB]",
    "pass_s": "pass in a worker [s]",
    "worker_private_mb": "growth of the worker, private [MB]",
    "worker_rss_mb": "growth of the worker, resident [MB]",
    "all_processes_mb": f"{NUM_RANKS} ranks, {NUM_WORKERS} workers each, together [MB]",
}


def table(kind: str, medians: Mapping[str, Mapping[str, float]]) -> str:
    """Format the results in Markdown."""
    lines = [f"| {kind} | {' | '.join(medians)} |", "|---" * (1 + len(medians)) + "|"]
    for name, title in ROWS.items():
        if name in medians[ORIGINAL]:
            digits = 2 if name.endswith("_s") else 0
            values = [row.get(name) for row in medians.values()]
            cells = ["" if value is None else f"{value:.{digits}f}" for value in values]
            lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Make the files, measure, and print tables."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help=f"1/{SMALL} of COCO's size")
    parser.add_argument("--kind", choices=KINDS, help="only this kind of annotations")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each variant")
    parser.add_argument("--no_total", action="store_true", help="leave out the ranks together")
    parser.add_argument("--folder", type=Path, help="keep the files here, or use them")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    args = parser.parse_args()
    divisor = SMALL if args.small else 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary) / "coco"
        if not folder.exists():
            write_files(folder, NUM_IMAGES // divisor, NUM_OBJECTS // divisor)
        os.environ["TORCH_HOME"] = str(folder / "cache")
        results = {}
        for kind in [args.kind] if args.kind else KINDS:
            size = (folder / f"{kind}.json").stat().st_size / MB
            results[kind] = compare(kind, folder, args.rounds, not args.no_total)
            print(f"{kind}: {size:.0f} MB, torch {torch.__version__}, medians of {args.rounds}\n")
            print(f"{table(kind, results[kind])}\n", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

"""Time and memory of annotations of COCO's size: 118,287 images with 860,001 objects.

The original reads the file with json and, for instances, builds pycocotools' index. This project is
measured without an entry in its cache, and with one. Every variant runs in separate processes. A
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.queues import Queue
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.measures import returned
from benchmarks.original.dataset import load_index
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
    imports = total_memory(_read_nothing, folder)
    for variant, read in (("original", original), ("cached", ours)):
        measured[variant]["all_processes_mb"] = total_memory(read, folder) - imports
    return measured


class Annotations(NamedTuple):
    """Annotations of a file: image ids, and a function that reads those of an image by its index.

    Of panoptic data the annotations are the segments.
    """

    ids: Sequence[int]
    rows: Callable[[int], list[dict[str, Any]]]


def original_instances(folder: Path) -> Annotations:
    """pycocotools' index, as in the original."""
    coco = load_index(folder / "instances.json")
    ids = sorted(coco.imgs)
    return Annotations(ids, lambda index: coco.loadAnns(coco.getAnnIds(ids[index])))


def original_panoptic(folder: Path) -> Annotations:
    """The tables in memory, sorted by image, as in the original."""
    with open(folder / "panoptic.json") as file:
        coco = json.load(file)
    coco["images"] = sorted(coco["images"], key=lambda row: row["id"])
    coco["annotations"] = sorted(coco["annotations"], key=lambda row: row["image_id"])
    ids = [row["id"] for row in coco["images"]]
    return Annotations(ids, lambda index: coco["annotations"][index]["segments_info"])


def our_instances(folder: Path) -> Annotations:
    """Annotations of a `CocoDetection`, which runs all its checks."""
    from datasets.coco import CocoDetection

    files = folder / "images", folder / "instances.json"
    with contextlib.redirect_stdout(io.StringIO()):
        data = CocoDetection(*files, None, False, training=True, num_queries=100)
    return Annotations(data.ids, lambda index: data.instances.annotations_of(data.ids[index]))


def our_panoptic(folder: Path) -> Annotations:
    """`CocoPanoptic`, with all its checks."""
    from datasets.coco_panoptic import CocoPanoptic

    images = folder / "images"
    with contextlib.redirect_stdout(io.StringIO()):
        data = CocoPanoptic(images, images, folder / "panoptic.json", training=True)
    segments = data.segments
    return Annotations(data.ids, lambda index: segments.map_of(data.ids[index])["segments_info"])


Read = Callable[[Path], Annotations]
KINDS: dict[str, tuple[Read, Read]] = {
    "instances": (original_instances, our_instances),
    "panoptic": (original_panoptic, our_panoptic),
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


@contextlib.contextmanager
def _running(context: Any, work: Callable[..., None], arguments: list[Any]) -> Iterator[None]:
    """Processes that run beside the body, one for each tuple of arguments."""
    processes = [context.Process(target=work, args=one) for one in arguments]
    for process in processes:
        process.start()
    yield
    for process in processes:
        process.join()


def _import_all() -> None:
    """Import everything that the variants use, so that it is not part of their memory."""
    import datasets.coco_panoptic  # noqa: F401


def _measure(read: Read, folder: Path, results: Queue) -> None:
    """Measure reading in this process, and a pass in a worker."""
    _import_all()
    before, start = memory(), time.perf_counter()
    annotations = read(folder)
    seconds, after = time.perf_counter() - start, memory()
    memory_mb = {"peak_mb": after["peak"], "resident_mb": after["rss"]}
    grown = {name: value - before["rss"] for name, value in memory_mb.items()}
    with _running(_FORK, _measure_pass, [(annotations, results)]):
        results.put({"index_s": seconds, **grown})


def _measure_pass(annotations: Annotations, results: Queue) -> None:
    make_targets(annotations, range(10))
    before, start = memory(), time.perf_counter()
    make_targets(annotations, range(len(annotations.ids)))
    seconds, after = time.perf_counter() - start, memory()
    grown = {f"worker_{name}_mb": after[name] - before[name] for name in ("private", "rss")}
    results.put({"pass_s": seconds, **grown})


def measure(read: Read, folder: Path) -> dict[str, float]:
    """Measure a variant in a new process."""
    results: Queue = _SPAWN.Queue()
    with _running(_SPAWN, _measure, [(read, folder, results)]):
        return {**results.get(timeout=_LIMIT), **results.get(timeout=_LIMIT)}


def _run_rank(read: Read, folder: Path, results: Queue, barrier: Any) -> None:
    """A rank with its workers: each does its part of a pass."""
    _import_all()
    annotations = read(folder)
    numbered = [(annotations, number, results, barrier) for number in range(_NUM_WORKERS)]
    with _running(_FORK, _run_worker, numbered):
        _report_together(results, barrier)


def _run_worker(annotations: Annotations, number: int, results: Queue, barrier: Any) -> None:
    make_targets(annotations, range(number, len(annotations.ids), _NUM_WORKERS))
    _report_together(results, barrier)


def _report_together(results: Queue, barrier: Any) -> None:
    """Report the proportional memory once every process has come this far."""
    barrier.wait()
    results.put(memory()["pss"])
    barrier.wait()


def _read_nothing(folder: Path) -> Annotations:
    return Annotations([], lambda index: [])


def total_memory(read: Read, folder: Path) -> float:
    """Memory in MB of all ranks and workers, shared pages counted once."""
    results: Queue = _SPAWN.Queue()
    count = _NUM_RANKS * (1 + _NUM_WORKERS)
    barrier = _SPAWN.Barrier(count)
    with _running(_SPAWN, _run_rank, [(read, folder, results, barrier)] * _NUM_RANKS):
        return sum(results.get(timeout=_LIMIT) for _ in range(count))


NUM_CLASSES, WIDTH, HEIGHT = 90, 640, 480


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

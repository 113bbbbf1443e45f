"""Statistics of annotations (images, objects, classes, box sizes) and their figures."""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from pycocotools.coco import COCO

from datasets.check.split_statistics import SIDE_LIMITS, count_by_size
from report.plotting import COLORS, INK, ClassAxis, Figure, both_ends
from report.quality import Names, short_name

_MAX_CLASSES = 100


class SplitCounts(NamedTuple):
    """Counts of a split, without crowds and empty boxes.

    Attributes:
        num_images: number of images in the annotation file.
        num_crowds: number of crowd annotations.
        by_class: number of objects by category id.
        per_image: (I,) number of objects of each image.
        sides: (N,) square root of the area of each box, in pixels.
    """

    num_images: int
    num_crowds: int
    by_class: Counter[Any]
    per_image: np.ndarray
    sides: np.ndarray

    def rows(self) -> dict[str, str]:
        """Values by name, for a table."""
        sizes = count_by_size(self.sides**2)
        per_image = self.per_image if len(self.per_image) else np.zeros(1)
        return {
            "images": f"{self.num_images:,}",
            "objects": f"{len(self.sides):,}",
            "classes with objects": f"{len(self.by_class):,}",
            "images without objects": f"{int((self.per_image == 0).sum()):,}",
            "objects per image, mean": f"{per_image.mean():.1f}",
            "objects per image, maximum": f"{int(per_image.max()):,}",
            **{f"{size} objects": f"{number:,}" for size, number in sizes.items()},
            "crowds": f"{self.num_crowds:,}",
        }


def split_counts(annotations: COCO) -> SplitCounts:
    """Count the annotations of a split."""
    boxes, labels, images, num_crowds = [], [], Counter[int](), 0
    for annotation in annotations.anns.values():
        width, height = annotation["bbox"][2:]
        if annotation.get("iscrowd"):
            num_crowds += 1
        elif width > 0 and height > 0:
            boxes.append(width * height)
            labels.append(annotation["category_id"])
            images[annotation["image_id"]] += 1
    per_image = np.array([images[image_id] for image_id in annotations.imgs], dtype=np.int64)
    return SplitCounts(
        len(annotations.imgs),
        num_crowds,
        Counter(labels),
        per_image,
        np.sqrt(np.array(boxes, dtype=np.float64)),
    )


def data_figures(splits: Mapping[str, SplitCounts], names: Names) -> list[Figure]:
    """Objects by class, objects per image and box sizes.

    Args:
        names: class names by category id.
    """
    total = sum((split.by_class for split in splits.values()), Counter[Any]())
    order = [i for i, _ in total.most_common()]
    caption = ""
    if len(order) > _MAX_CLASSES:
        caption = f"The {_MAX_CLASSES // 2} most and least frequent classes."
    order = both_ends(order, _MAX_CLASSES)
    axis = ClassAxis([short_name(names, i) for i in order])
    counts = {name: [split.by_class[i] for i in order] for name, split in splits.items()}
    draw = partial(_draw_classes, axis=axis, counts=counts)
    sizes = {name: split.sides for name, split in splits.items()}
    numbers = {name: split.per_image for name, split in splits.items()}
    return [
        Figure("objects_per_image", "Objects per image", partial(_draw_numbers, numbers=numbers)),
        Figure(
            "box_sizes",
            "Box sizes",
            partial(_draw_sizes, sides=sizes),
            caption="Dotted: COCO's limits between small, medium and large.",
        ),
        Figure(
            "objects_by_class", "Objects by class", draw, axis.size_inches, caption, axis.is_wide
        ),
    ]


def _draw_classes(ax: Axes, axis: ClassAxis, counts: Mapping[str, list[int]]) -> None:
    width = 0.8 / max(len(counts), 1)
    for index, (name, numbers) in enumerate(counts.items()):
        offset = (index - (len(counts) - 1) / 2) * width
        axis.bars(ax, numbers, COLORS[index], width, offset).set_label(name)
    largest = max((max(numbers, default=0) for numbers in counts.values()), default=0)
    smallest = min((n for numbers in counts.values() for n in numbers if n), default=1)
    if largest > 50 * smallest:
        axis.use_log_scale(ax)
    axis.finish(ax, "objects")
    if len(counts) > 1:  # above the axes: there is no room between the bars
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(counts), borderpad=0)


def _draw_numbers(ax: Axes, numbers: Mapping[str, np.ndarray]) -> None:
    largest = max((int(n.max(initial=0)) for n in numbers.values()), default=0)
    edges = np.arange(largest + 2) - 0.5 if largest <= 40 else np.linspace(-0.5, largest + 0.5, 31)
    _draw_histograms(ax, numbers, edges, "images")
    ax.set_xlabel("objects per image")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_sizes(ax: Axes, sides: Mapping[str, np.ndarray]) -> None:
    known = np.concatenate(list(sides.values()))
    known = known if len(known) else np.ones(1)
    edges = np.geomspace(max(known.min(), 1), max(known.max(), 2) * 1.01, 31)
    _draw_histograms(ax, sides, edges, "objects")
    ax.set_xscale("log")
    ax.set_xlabel("square root of the box area, pixels")
    # From the largest power of two below all boxes: a tick further left would widen the axis.
    ticks = [t for t in (2**n for n in range(17)) if edges[0] / 2 < t <= edges[-1]]
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    for limit in SIDE_LIMITS:
        if limit < edges[-1]:
            ax.axvline(limit, color=INK, linestyle=":", linewidth=1)


def _draw_histograms(
    ax: Axes, values: Mapping[str, np.ndarray], edges: np.ndarray, noun: str
) -> None:
    """Draw one histogram per name, in percent of its values."""
    for index, (name, numbers) in enumerate(values.items()):
        weights = np.full(len(numbers), 100 / max(len(numbers), 1))
        style: dict[str, Any] = {"histtype": "step", "linewidth": 1.4, "edgecolor": COLORS[index]}
        if index == 0:
            style |= {"histtype": "stepfilled", "facecolor": COLORS[0], "alpha": 0.3}
        ax.hist(numbers, edges.tolist(), weights=weights, label=name, **style)
    ax.set_ylabel(f"percent of the {noun}")
    if len(values) > 1:
        ax.legend()

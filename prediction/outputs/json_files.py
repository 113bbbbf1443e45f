"""JSON files of a prediction: detections with class names, COCO results, panoptic segments."""

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from datasets.annotations.segmentations import encode_masks
from prediction.inputs.reading import Item
from prediction.names import picture_name, png_name
from prediction.result import Prediction
from util.files.checkpoint_file import atomic_write
from util.files.panoptic_png import encode_id_map

FILE_NAME = "detections.json"


class NamesJson:
    """Writes one JSON object per image, with class names and rounded numbers.

    Args:
        folder: output folder, for ``detections.json``.
        settings: entries before the list of images: model, threshold, …
        with_pictures: whether an annotated image is saved for each image.
        failures: name and error message of inputs that were not predicted; read at the end.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        with_pictures: bool,
        failures: Sequence[tuple[str, str]],
    ) -> None:
        self._file = StreamedJson(folder / FILE_NAME, dict(settings), "images")
        self._with_pictures = with_pictures
        self._failures = failures

    def add(self, item: Item, image: Image.Image, prediction: Prediction) -> None:
        """Write the detections in an image."""
        height, width = prediction.size_hw
        entry: dict[str, Any] = {"file": item.file, "width": width, "height": height}
        if item.seconds is not None:
            entry |= {"frame": item.frame, "seconds": round(item.seconds, 3)}
        if self._with_pictures:
            entry["picture"] = f"pictures/{picture_name(item.name)}"
        entry["detections"] = list(_named(prediction))
        if prediction.segment_map is not None:
            entry["panoptic"] = f"panoptic/{png_name(item.name)}"
            entry["segments"] = list(prediction.segments)
        self._file.add(entry)

    def close(self) -> None:
        """Write the inputs that were not predicted, and complete the file."""
        failed = [{"file": file, "error": error} for file, error in self._failures]
        self._file.close({"failed": failed})


def _named(prediction: Prediction) -> Iterable[dict[str, Any]]:
    for index, name in enumerate(prediction.names):
        entry: dict[str, Any] = {
            "name": name,
            "category_id": prediction.category_ids.tolist()[index],
            "score": round(float(prediction.scores[index]), 4),
            "box_xyxy": [round(float(value), 2) for value in prediction.boxes_xyxy[index]],
        }
        if prediction.masks is not None:
            entry["segmentation"] = encode_masks(prediction.masks[index][..., None])[0]
        yield entry


class CocoJson:
    """Writes COCO results without rounding, and optionally a file with the image ids.

    Args:
        folder: output folder, for ``detections.json`` and ``images.json``. The latter is a COCO
            file without annotations, with the image ids that the results refer to.
        with_images: write ``images.json``.
    """

    def __init__(self, folder: Path, categories: list[dict[str, Any]], with_images: bool) -> None:
        self._results = StreamedJson(folder / FILE_NAME)
        self._images: StreamedJson | None = None
        if with_images:
            before = {"annotations": [], "categories": categories}
            self._images = StreamedJson(folder / "images.json", before, "images")

    def add(self, item: Item, image: Image.Image, prediction: Prediction) -> None:
        """Write the detections in an image."""
        height, width = prediction.size_hw
        if self._images is not None:
            name = item.file if item.frame is None else f"{item.file}/{item.frame:06d}"
            row = {"id": item.image_id, "file_name": name, "width": width, "height": height}
            self._images.add(row)
        for index in range(len(prediction)):
            left, top, right, bottom = prediction.boxes_xyxy[index].tolist()
            entry = {
                "image_id": item.image_id,
                "category_id": prediction.category_ids.tolist()[index],
                "bbox": [left, top, right - left, bottom - top],
                "score": float(prediction.scores[index]),
            }
            if prediction.masks is not None:
                entry["segmentation"] = encode_masks(prediction.masks[index][..., None])[0]
            self._results.add(entry)

    def close(self) -> None:
        """Complete the files."""
        self._results.close()
        if self._images is not None:
            self._images.close()


class StreamedJson:
    """A JSON file with one long list, which is never in memory as a whole.

    An existing file is replaced when this one is closed.

    Args:
        before: entries of the JSON object before the list; None: the file contains only the list.
    """

    def __init__(self, path: Path, before: dict[str, Any] | None = None, name: str = "") -> None:
        self._stack = contextlib.ExitStack()
        self._file = self._stack.enter_context(atomic_write(path, "w"))
        self._is_object = before is not None
        self._separator = "\n"
        if before is not None:
            keys = "".join(f"{json.dumps(k)}: {_dumps(v)},\n" for k, v in before.items())
            self._file.write("{\n" + keys + f"{json.dumps(name)}: ")
        self._file.write("[")

    def add(self, entry: dict[str, Any]) -> None:
        """Write an entry of the list, on one line."""
        self._file.write(self._separator + _dumps(entry))
        self._separator = ",\n"

    def close(self, after: dict[str, Any] | None = None) -> None:
        """Complete the file.

        Args:
            after: entries of the JSON object after the list.
        """
        self._file.write("\n]")
        for key, value in (after or {}).items():
            self._file.write(f",\n{json.dumps(key)}: {_dumps(value)}")
        self._file.write("\n}\n" if self._is_object else "\n")
        self._stack.close()


def _dumps(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


class PanopticFiles:
    """Writes segment maps as PNGs, and their segments in COCO's panoptic format.

    Args:
        folder: output folder, for ``panoptic/`` and ``panoptic.json``.
    """

    def __init__(self, folder: Path, categories: list[dict[str, Any]]) -> None:
        self._folder = folder / "panoptic"
        self._file = StreamedJson(
            folder / "panoptic.json", {"categories": categories}, "annotations"
        )

    def add(self, item: Item, image: Image.Image, prediction: Prediction) -> None:
        """Save the map of an image."""
        assert prediction.segment_map is not None
        file_name = png_name(item.name)
        path = self._folder / file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, durable=False) as file:
            file.write(encode_id_map(prediction.segment_map))
        segments = list(prediction.segments)
        self._file.add(
            {"image_id": item.image_id, "file_name": file_name, "segments_info": segments}
        )

    def close(self) -> None:
        """Complete the JSON file."""
        self._file.close()

"""Panoptic maps in COCO's format: ``panoptic/`` with PNGs of segment ids, and ``panoptic.json``."""

from pathlib import Path
from typing import Any

from PIL import Image

from prediction.inputs.reading import Item
from prediction.names import png_name
from prediction.outputs.json_files import StreamedJson
from prediction.result import Prediction
from util.files.checkpoint import atomic_write
from util.files.panoptic_png import encode_id_map


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

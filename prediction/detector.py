"""Python API for prediction: from images to detections with class names."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from datasets.loading.images import read_upright, to_rgb
from engine import forward_pass
from export.source import LoadedModel, from_file, released_model
from models.fast.inference import optimize_on_cpu
from models.released.zoo import RELEASED_MODELS
from prediction.postprocessing import Selection, to_prediction
from prediction.result import Prediction
from util.cli.suggestions import did_you_mean
from util.errors import UserError
from util.system.devices import check_device
from util.system.precision import choose_precision

ImageLike: TypeAlias = str | Path | Image.Image | np.ndarray
Key = TypeVar("Key")
OnError: TypeAlias = Callable[[Key, UserError], None]

DEFAULT_BATCH_SIZE = 4
_NAMES_LISTED = 5
_BATCHES_PER_CHUNK = 4
_MAX_PIXELS = 100_000_000  # 300 MB as RGB


class Detector:
    """Detects objects in images: ``Detector("checkpoint.pth").predict("a.jpg")``.

    Args:
        model: path or URL of a checkpoint written by main.py, a released file or a safetensors
            file; or a loaded model.
        device: ``cpu``, ``cuda``, …; default: ``cuda`` if available, else ``cpu``.
        amp: mixed precision: ``off``, ``bf16``, ``fp16``, or ``auto``: ``bf16`` where the device
            computes it fast, else ``off``.
        ema: use the EMA weights of a run with ``--ema_decay``.
        dilation: whether this is a DC5 model; only needed if the file stores no flags.
        nheads: number of attention heads; only needed if the file stores no flags; default: 8.
        cls_loss: classification loss, ``ce`` or ``focal``; only needed if the file stores no flags;
            default: ``focal`` for anchor queries, else ``ce``.

    Raises:
        UserError: if the file cannot be read, or the device is not available.
    """

    def __init__(
        self,
        model: str | Path | LoadedModel,
        device: str | torch.device | None = None,
        amp: str = "off",
        *,
        ema: bool = False,
        dilation: bool | None = None,
        nheads: int | None = None,
        cls_loss: str | None = None,
    ) -> None:
        name = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        check_device(name)
        if not isinstance(model, LoadedModel):
            known = {"dilation": dilation, "nheads": nheads, "cls_loss": cls_loss}
            model = from_file(str(model), known, averaged=ema)
        self.device = torch.device(name)
        self.precision = choose_precision(amp, self.device)
        network = optimize_on_cpu(model.model.to(self.device))
        self.loaded = replace(model, model=network)
        self._preprocess = model.transform()

    @classmethod
    def hub(
        cls,
        name: str,
        device: str | torch.device | None = None,
        amp: str = "off",
        *,
        pretrained: bool = True,
    ) -> "Detector":
        """Load a released model by its name in ``torch.hub``, such as ``detr_resnet50``.

        Args:
            name: key of `models.released.zoo.RELEASED_MODELS`.
            device: see the class.
            amp: see the class.
            pretrained: download the released weights; False: random weights.

        Raises:
            UserError: if there is no such model, or its weights cannot be downloaded.
        """
        if name not in RELEASED_MODELS:
            listed = f": there are {', '.join(RELEASED_MODELS)}"
            hint = did_you_mean(name, list(RELEASED_MODELS)) or listed
            raise UserError(f"there is no released model {name}{hint}")
        return cls(released_model(name, not pretrained, torch.device("cpu")), device, amp)

    @property
    def amp(self) -> str:
        """Mixed precision: ``off``, ``bf16`` or ``fp16``."""
        return self.precision.amp

    @amp.setter
    def amp(self, amp: str) -> None:
        """Set the precision; also accepts ``auto``. Raises a ValueError for other values."""
        self.precision = choose_precision(amp, self.device)

    @property
    def threshold(self) -> float:
        """Default minimum score of detections: stored best-F1 threshold, else 0.5 (focal: 0.2)."""
        return self.loaded.threshold

    @property
    def segment_threshold(self) -> float:
        """Default minimum score of the segments of a panoptic model."""
        return self.loaded.segment_threshold

    def thresholds(self, threshold: float | None = None) -> dict[str, float]:
        """Thresholds that `predict` uses: ``threshold``, and ``segment_threshold`` if panoptic.

        Args:
            threshold: see `predict`.
        """
        selection = self._selection(threshold, None)
        segments = {"segment_threshold": selection.segment_threshold}
        return {"threshold": selection.threshold, **(segments if self.loaded.is_panoptic else {})}

    def categories(self) -> list[dict[str, Any]]:
        """Classes as rows of COCO's table "categories"; for panoptic models with ``isthing``."""
        loaded = self.loaded
        rows: list[dict[str, Any]] = []
        own_id = loaded.rows().text_ids()
        for category_id in loaded.categories or loaded.rows().by_row:
            row_id = own_id.get(category_id, category_id)
            rows.append({"id": row_id, "name": loaded.name_of(category_id)})
            if loaded.is_panoptic:
                rows[-1]["isthing"] = int(loaded.is_thing.get(category_id, False))
        return rows

    def describe(self, threshold: float | None = None) -> str:
        """Classes and threshold in one line.

        Args:
            threshold: see `predict`.
        """
        names = [row["name"] for row in self.categories()]
        listed = ", ".join(names[:_NAMES_LISTED]) + (", …" if len(names) > _NAMES_LISTED else "")
        return f"{len(names)} classes ({listed}); {self._describe_threshold(threshold)}"

    def _describe_threshold(self, threshold: float | None) -> str:
        if threshold is not None:
            return f"threshold {threshold:g}"
        known = self.loaded.best_threshold is not None
        reason = "best F1 on the validation images" if known else "default, no best F1 is stored"
        segments = f", of segments {self.segment_threshold:g}" if self.loaded.is_panoptic else ""
        return f"threshold {self.threshold:.3g} ({reason}){segments}"

    @overload
    def predict(  # type: ignore[overload-overlap]  # an array is one image or several
        self,
        images: ImageLike,
        threshold: float | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        classes: Sequence[str] | None = None,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        images: Iterable[ImageLike],
        threshold: float | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        classes: Sequence[str] | None = None,
    ) -> list[Prediction]: ...

    def predict(
        self,
        images: ImageLike | Iterable[ImageLike],
        threshold: float | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        classes: Sequence[str] | None = None,
    ) -> Prediction | list[Prediction]:
        """Detect objects in one image or in several.

        Args:
            images: path, PIL image or uint8 array (H, W, 3) in RGB; or a list or an iterator of
                them. Files and PIL images are rotated by their EXIF orientation.
            threshold: minimum score in [0, 1]; default: the properties `threshold` (detections) and
                `segment_threshold` (segments).
            batch_size: maximum number of images per batch; results differ by rounding only.
            classes: names of the classes to detect; default: all.

        Returns:
            a prediction for one image, or a list of predictions for several.

        Raises:
            UserError: if an image cannot be read, or a class is unknown.
            ValueError: if an array is not uint8 (H, W, 3).
        """
        is_one = isinstance(images, str | Path | Image.Image) or (
            isinstance(images, np.ndarray) and images.ndim == 3
        )
        many: Any = [images] if is_one else images
        pairs = ((None, _as_rgb(image)) for image in many)
        found = [p for _, _, p in self.stream(pairs, threshold, batch_size, classes)]
        return found[0] if is_one else found

    def stream(
        self,
        images: Iterable[tuple[Key, Image.Image]],
        threshold: float | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        classes: Sequence[str] | None = None,
        on_error: OnError[Key] | None = None,
    ) -> Iterator[tuple[Key, Image.Image, Prediction]]:
        """Detect objects in any number of images, with only a few in memory at a time.

        Args:
            images: pairs of an arbitrary key and an upright RGB image.
            threshold, batch_size, classes: see `predict`.
            on_error: called with the key and the error of an image that the model cannot process;
                the other images are processed. Default: the error is raised.

        Yields:
            key, image and prediction, in the order of ``images``.

        Raises:
            UserError: if a class is unknown.
        """
        selection = self._selection(threshold, classes)
        for chunk in chunks(images, batch_size):
            outputs = self._outputs_of(chunk, batch_size, on_error)
            for index, (key, image) in enumerate(chunk):
                if index in outputs:
                    size_hw, output = (image.height, image.width), outputs.pop(index)
                    yield key, image, to_prediction(self.loaded, *output, size_hw, selection)

    def _selection(self, threshold: float | None, classes: Sequence[str] | None) -> Selection:
        return Selection(
            threshold=self.threshold if threshold is None else threshold,
            segment_threshold=self.segment_threshold if threshold is None else threshold,
            category_ids=None if classes is None else self.loaded.ids_of(classes),
        )

    @torch.no_grad()
    def _outputs_of(
        self,
        chunk: Sequence[tuple[Key, Image.Image]],
        batch_size: int,
        on_error: OnError[Key] | None,
    ) -> dict[int, tuple[dict[str, Tensor], tuple[int, int]]]:
        """Outputs (batch size 1) and network input size of each image, by index in the chunk."""
        inputs = [self._preprocess(image, None)[0] for _, image in chunk]
        outputs: dict[int, tuple[dict[str, Tensor], tuple[int, int]]] = {}
        for indices in batches_of_one_size(inputs, batch_size):
            batch = torch.stack([inputs[index] for index in indices]).to(self.device)
            try:
                predicted = forward_pass(self.loaded.model, batch, self.device, self.amp)  # type: ignore[arg-type]
            except UserError as error:
                if on_error is None:
                    raise
                for index in indices:
                    on_error(chunk[index][0], error)
                continue
            network_hw = (batch.shape[2], batch.shape[3])
            for row, index in enumerate(indices):
                one = {n: v[row : row + 1] for n, v in predicted.items() if n != "aux_outputs"}
                outputs[index] = one, network_hw
        return outputs


def _as_rgb(image: ImageLike) -> Image.Image:
    """Upright RGB image from a path, a PIL image or an array."""
    if isinstance(image, str | Path):
        return read_upright(image)
    if isinstance(image, Image.Image):
        return to_rgb(ImageOps.exif_transpose(image))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"expected a uint8 array (H, W, 3) in RGB, got {image.dtype} {image.shape}"
        )
    return Image.fromarray(image)


def chunks(
    images: Iterable[tuple[Key, Image.Image]], batch_size: int, max_pixels: int = _MAX_PIXELS
) -> Iterator[list[tuple[Key, Image.Image]]]:
    """Split a stream of images into lists that fit in memory.

    Args:
        images: pairs of a key and an image, read on demand.
        batch_size: images per batch; a list has at most `_BATCHES_PER_CHUNK` batches.
        max_pixels: a list ends once its images have this many pixels in total.
    """
    chunk: list[tuple[Key, Image.Image]] = []
    pixels = 0
    for key, image in images:
        chunk.append((key, image))
        pixels += image.width * image.height
        if len(chunk) >= _BATCHES_PER_CHUNK * batch_size or pixels >= max_pixels:
            yield chunk
            chunk, pixels = [], 0
    if chunk:
        yield chunk


def batches_of_one_size(inputs: Sequence[Tensor], batch_size: int) -> list[list[int]]:
    """Group network inputs of equal size, so that nothing is padded.

    Padding changes the predictions of DETR slightly, because convolutions read it at the image
    border. Without it, the result for an image depends on its batch by rounding only.

    Args:
        inputs: [N] images (3, H, W).
        batch_size: maximum number of images per group.

    Returns:
        groups of indices; each index occurs once.
    """
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(inputs):
        by_size.setdefault(tuple(image.shape), []).append(index)
    return [
        indices[start : start + batch_size]
        for indices in by_size.values()
        for start in range(0, len(indices), batch_size)
    ]

"""Read inputs one by one as upright RGB images; unreadable inputs are reported."""

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from PIL import Image

from datasets.loading.images import read_listed_image, read_upright
from prediction.inputs.find import Input
from prediction.inputs.listed import ListedFiles
from prediction.inputs.video import frames
from util.errors import UserError

Report: TypeAlias = Callable[[str, UserError], None]


@dataclass(frozen=True)
class Item:
    """An image to predict.

    Attributes:
        file: path of the image or video as given.
        name: name for its output files: a relative path with ``/``, unique among all inputs.
        image_id: id in the annotation file; without annotation file, a running number from 1.
        frame: index in the video, from 0; None for an image file.
        seconds: time in the video; None for an image file.
    """

    file: str
    name: str
    image_id: int
    frame: int | None = None
    seconds: float | None = None

    @property
    def title(self) -> str:
        """The file, and for a video the frame."""
        return self.file if self.frame is None else f"{self.file}, frame {self.frame}"


def read_items(
    inputs: Iterable[Input], fps: float | None, listed: ListedFiles | None, report: Report
) -> Iterator[tuple[Item, Image.Image]]:
    """Read the images and frames of all inputs.

    Args:
        inputs: inputs, read in this order.
        fps: number of video frames per second to use; None: all frames.
        listed: provides ids and image sizes, which decide whether images are rotated by EXIF; None:
            running numbers, and all images are rotated.
        report: called with the name and the error of each input that cannot be read.
    """
    numbers = itertools.count(1)
    for one in inputs:
        try:
            if one.is_video:
                for frame in frames(one.path, fps):
                    name = f"{one.name}/{frame.index:06d}.jpg"
                    item = Item(one.path, name, next(numbers), frame.index, frame.seconds)
                    yield item, frame.image
            elif listed is None:
                image = _read_quietly(read_upright, one.path)
                yield Item(one.path, one.name, next(numbers)), image
            else:
                row = listed.find(one.path)
                image, _ = _read_quietly(read_listed_image, one.path, row.size_wh)
                yield Item(one.path, one.name, row.image_id), image
        except UserError as error:
            report(one.path, error)


def _read_quietly(read: Callable[..., Any], path: str, *arguments: Any) -> Any:
    """Read an image without Pillow's warnings about metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read(path, *arguments, name=path)

"""Read inputs one by one as upright RGB images; unreadable inputs are reported."""

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image

from datasets.loading.images import SizeMatch, read_listed_image, read_upright
from prediction.inputs.find import Input
from prediction.inputs.listed import ListedFiles, ListedRow
from prediction.inputs.video import frames
from util.errors import UserError

OnError: TypeAlias = Callable[[str, UserError], None]


@dataclass(frozen=True)
class Item:
    """An image to predict.

    Attributes:
        file: path of the image or video as given.
        name: name for its output files: a relative path with ``/``, unique among all inputs.
        image_id: id in the annotation file; without one, a running number from 1.
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
        """The file and, for a video, the frame."""
        return self.file if self.frame is None else f"{self.file}, frame {self.frame}"


def read_items(
    inputs: Iterable[Input], fps: float | None, listed: ListedFiles | None, on_error: OnError
) -> Iterator[tuple[Item, Image.Image]]:
    """Read the images and frames of all inputs.

    Args:
        inputs: inputs, read in this order.
        fps: number of video frames per second to use; None: all frames.
        listed: provides image ids, and image sizes that decide whether images are rotated by EXIF;
            None: running numbers, and all images are rotated.
        on_error: called with the name and the error of each input that cannot be read.
    """
    numbers = itertools.count(1)
    for source in inputs:
        try:
            if source.is_video:
                for frame in frames(source.path, fps):
                    name = f"{source.name}/{frame.index:06d}.jpg"
                    item = Item(source.path, name, next(numbers), frame.index, frame.seconds)
                    yield item, frame.image
            elif listed is None:
                with _without_warnings():
                    image = read_upright(source.path, name=source.path)
                yield Item(source.path, source.name, next(numbers)), image
            else:
                row = listed.find(source.path)
                yield Item(source.path, source.name, row.image_id), _read_listed(source.path, row)
        except UserError as error:
            on_error(source.path, error)


def _read_listed(path: str, row: ListedRow) -> Image.Image:
    """Read an image in the orientation of its annotations; its size must be the annotated one.

    Otherwise its detections would not be comparable with the annotations.
    """
    with _without_warnings():
        image, match = read_listed_image(path, row.size_wh, name=path, upright=row.upright)
    if match is SizeMatch.DIFFERENT:
        assert row.size_wh is not None
        width, height = row.size_wh
        raise UserError(
            f"{path} is {image.width} x {image.height} pixels (width x height), but {width} x "
            f"{height} in the file of --ann; use the annotated image"
        )
    return image


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppress warnings, such as those of Pillow about metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

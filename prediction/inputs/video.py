"""Frames of videos and cameras, read with PyAV or OpenCV, whichever is installed."""

import importlib
import itertools
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from PIL import Image

from util.errors import UserError

_USUAL_FPS = 25.0  # for files without a frame rate
_INSTALL = "pip install av (or pip install opencv-python-headless)"


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        index: index from 0 among all frames of the video.
        seconds: time since the beginning.
        image: upright, RGB.
    """

    index: int
    seconds: float
    image: Image.Image


def frames(source: str, fps: float | None = None) -> Iterator[Frame]:
    """Read the frames of a video.

    Args:
        source: path of a video file, or the index of a camera.
        fps: maximum number of frames per second to return; None: all.

    Raises:
        UserError: if neither PyAV nor OpenCV is installed, or the video cannot be read.
    """
    read = _read_with_av if reader_of(source) == "av" else _read_with_opencv
    last_interval = -1
    for frame in read(source):
        # The first frame of each interval of 1 / fps seconds.
        interval = frame.index if fps is None else math.floor(frame.seconds * fps + 1e-6)
        if interval > last_interval:
            last_interval = interval
            yield frame


def reader_of(source: str) -> str:
    """Module that reads a video: ``av`` or, preferred for cameras, ``cv2``.

    Raises:
        UserError: if neither is installed.
    """
    preferred = ("cv2", "av") if source.isdecimal() else ("av", "cv2")
    for module in preferred:
        if module in sys.modules or find_spec(module) is not None:
            return module
    raise UserError(f"{source}: videos require PyAV or OpenCV: {_INSTALL}")


def _read_with_av(source: str) -> Iterator[Frame]:
    av: Any = importlib.import_module("av")
    device = {"file": f"/dev/video{source}", "format": "v4l2"}
    options = device if source.isdecimal() else {"file": source}
    try:
        with av.open(**options) as container:
            if not container.streams.video:
                raise UserError(f"{source} has no video stream; give a video file")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate = float(stream.average_rate or _USUAL_FPS)
            start: float | None = None
            for index, frame in enumerate(container.decode(stream)):
                seconds = index / rate if frame.time is None else float(frame.time)
                start = seconds if start is None else start
                yield Frame(index, seconds - start, _upright(frame))
    except av.error.FFmpegError as error:
        raise UserError(f"{source} cannot be read as a video: {error.strerror}") from error


def _upright(frame: Any) -> Image.Image:
    """Convert a frame of PyAV to an image, rotated as its metadata says."""
    image: Image.Image = frame.to_image()
    degrees = getattr(frame, "rotation", 0)  # counter-clockwise
    return image.rotate(degrees, expand=True) if degrees else image


def _read_with_opencv(source: str) -> Iterator[Frame]:
    cv2: Any = importlib.import_module("cv2")
    capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    try:
        if not capture.isOpened():
            what = f"camera {source}" if source.isdecimal() else source
            raise UserError(f"{what} cannot be opened as a video; give another file or camera")
        rate = capture.get(cv2.CAP_PROP_FPS) or _USUAL_FPS
        start = time.monotonic()
        for index in itertools.count():
            is_read, pixels_bgr = capture.read()
            if not is_read:
                return
            seconds = time.monotonic() - start if source.isdecimal() else index / rate
            yield Frame(index, seconds, Image.fromarray(pixels_bgr[..., ::-1].copy()))
    finally:
        capture.release()

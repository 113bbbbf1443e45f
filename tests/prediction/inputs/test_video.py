"""Frames of videos: which are taken, and with which library they are read."""

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from prediction.inputs import video
from prediction.inputs.video import Frame, frames, reader_of
from util.errors import UserError

SIZE = (96, 64)


def frame_at(number):
    """A red square that moves to the right by 4 pixels per frame."""
    image = Image.new("RGB", SIZE, (128, 128, 128))
    left = 4 * number
    ImageDraw.Draw(image).rectangle((left, 8, left + 15, 23), fill=(255, 0, 0))
    return image


def left_of_red(image):
    pixels = np.asarray(image).astype(int)
    return int(((pixels[..., 0] > 180) & (pixels[..., 1] < 100)).nonzero()[1].min())


@pytest.fixture
def no_library(monkeypatch):
    """Neither PyAV nor OpenCV is installed."""
    for module in ("av", "cv2"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(video, "find_spec", lambda name: None)
    return monkeypatch


def test_without_a_library_the_message_says_how_to_install_one(no_library):
    for source in ("clip.mp4", "0"):
        with pytest.raises(UserError, match=rf"{source}: videos .* pip install av"):
            reader_of(source)


@pytest.mark.parametrize(
    ("installed", "source", "reader"),
    [
        (["av", "cv2"], "clip.mp4", "av"),
        (["av", "cv2"], "0", "cv2"),
        (["cv2"], "clip.mp4", "cv2"),
        (["av"], "0", "av"),
    ],
)
def test_either_library_will_do(installed, source, reader, no_library):
    for module in installed:
        no_library.setitem(sys.modules, module, SimpleNamespace())
    assert reader_of(source) == reader


@pytest.mark.parametrize(
    ("fps", "taken"),
    [
        (None, list(range(20))),
        (2, [0, 5, 10, 15]),
        (3, [0, 4, 7, 10, 14, 17]),
        (10, list(range(20))),
        (50, list(range(20))),
    ],
)
def test_frames_per_second(fps, taken, monkeypatch):
    """A video of two seconds with 10 frames per second."""

    def read(source):
        return (Frame(number, number / 10, frame_at(0)) for number in range(20))

    monkeypatch.setattr(video, "reader_of", lambda source: "av")
    monkeypatch.setattr(video, "_read_with_av", read)
    assert [frame.index for frame in frames("clip.mp4", fps)] == taken


def test_after_a_gap_frames_are_not_taken_faster(monkeypatch):
    times = [0, 0.1, 5, 5.1, 5.2, 5.3, 5.4, 5.5, 5.6]
    monkeypatch.setattr(video, "reader_of", lambda source: "av")
    monkeypatch.setattr(
        video, "_read_with_av", lambda _: (Frame(i, t, frame_at(0)) for i, t in enumerate(times))
    )
    assert [frame.seconds for frame in frames("clip.mp4", 2)] == [0, 5, 5.5]


# ---- stand-ins for the libraries -----------------------------------------------------------------


class Capture:
    """OpenCV's capture of a video of three frames."""

    def __init__(self, source):
        self.source, self.number, self.released = source, 0, False
        Capture.last = self

    def isOpened(self):  # noqa: N802
        return self.source != "broken.mp4"

    def get(self, name):
        return 5.0

    def read(self):
        if self.number == 3:
            return False, None
        self.number += 1
        return True, np.asarray(frame_at(self.number - 1))[..., ::-1]

    def release(self):
        self.released = True


def test_a_video_with_opencv(no_library):
    fake = SimpleNamespace(VideoCapture=Capture, CAP_PROP_FPS=5)
    no_library.setitem(sys.modules, "cv2", fake)
    found = list(frames("clip.mp4"))
    assert [(frame.index, frame.seconds) for frame in found] == [(0, 0), (1, 0.2), (2, 0.4)]
    assert [left_of_red(frame.image) for frame in found] == [0, 4, 8]
    assert Capture.last.released
    with pytest.raises(UserError, match=r"broken\.mp4 cannot be opened as a video"):
        next(frames("broken.mp4"))
    seconds = [frame.seconds for frame in frames("0")]
    assert Capture.last.source == 0 and seconds == sorted(seconds) and seconds[-1] < 0.2


@pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="PyAV is not installed")
def test_a_video_with_pyav(tmp_path):
    import av

    path = str(tmp_path / "clip.mp4")
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(6):
            container.mux(stream.encode(av.VideoFrame.from_image(frame_at(number))))
        container.mux(stream.encode())
    found = list(frames(path))
    assert [round(frame.seconds, 3) for frame in found] == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert [left_of_red(frame.image) for frame in found] == pytest.approx(
        [0, 4, 8, 12, 16, 20], abs=1
    )
    (tmp_path / "broken.mp4").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"broken\.mp4 cannot be read as a video"):
        next(frames(str(tmp_path / "broken.mp4")))

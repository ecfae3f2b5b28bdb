"""Frames of video files, decoded once and in order by PyAV, the extra `video`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from worldmodel.data.readers.files import reading
from worldmodel.data.readers.sizes import check_memory
from worldmodel.errors import DataError

ACCEPTED = "MP4 video"


class Clip(NamedTuple):
    """The frames of one episode in a video file.

    file: the file
    seconds: (T,) time of each frame in the file, ascending
    """

    file: Path
    seconds: np.ndarray


def check_installed(source: str) -> None:
    """Raises DataError without PyAV."""
    try:
        import av  # noqa: F401  whether it is installed
    except ImportError as error:
        raise DataError(
            f'{source}: its videos need PyAV ({error}): pip install "worldmodel[video]", or choose '
            "others with data.observations"
        ) from error


def decoded(clips: Sequence[Clip], fps: float) -> Iterator[np.ndarray | DataError]:
    """Yields the frames of each clip, uint8 (T, height, width, 3), or why they cannot be read.

    A file is decoded once if its clips follow each other, and each clip ahead of its use.
    """
    frames, pool = _clips(clips, fps), ThreadPoolExecutor(1)
    try:
        ahead: Future = pool.submit(next, frames, None)
        while (clip := ahead.result()) is not None:
            ahead = pool.submit(next, frames, None)
            yield clip
    finally:
        # Not joined: where this generator is abandoned, that may run in any thread, even in one
        # that is being started and for which others wait.
        pool.shutdown(wait=False, cancel_futures=True)


def _clips(clips: Sequence[Clip], fps: float) -> Iterator[np.ndarray | DataError]:
    video: _Video | None = None
    for clip in clips:
        wanted = np.round(clip.seconds * fps).astype(np.int64)
        try:
            with reading(ACCEPTED, clip.file):
                if video is None or not video.holds(clip.file, wanted):
                    if video is not None:
                        video.close()
                    video = _Video(clip.file, fps)
                frames = video.take(wanted)
        except DataError as error:
            video = None
            frames = error
        yield frames
    if video is not None:
        video.close()


class _Video:
    """A video that is decoded from its beginning to its end. `position` is the frame that is read
    next, counted in `1 / fps` seconds.
    """

    def __init__(self, file: Path, fps: float):
        import av
        from av.video.reformatter import VideoReformatter

        self.file, self.fps, self.position = file, fps, 0
        # No other demuxer: playlists and the like name other files.
        self.container = av.open(str(file), format="mp4")
        if not self.container.streams.video:
            raise DataError(f"holds no video; accepted: {ACCEPTED}")
        stream = self.container.streams.video[0]
        stream.thread_type = "AUTO"
        self.frames: Iterator[Any] = iter(self.container.decode(stream))
        self.reformatter = VideoReformatter()
        self.frame: Any = None  # that was decoded last

    def holds(self, file: Path, wanted: np.ndarray) -> bool:
        """Whether frames are still ahead."""
        return file == self.file and self.position <= wanted[:1].sum(initial=0)

    def take(self, wanted: np.ndarray) -> np.ndarray:
        """The frames (T,) in ascending order."""
        images = np.zeros(0, np.uint8)
        for step, index in enumerate(wanted.tolist()):
            frame = self._frame(index)
            if frame is None:
                raise DataError(
                    f"has no frame at {index / self.fps:.3f} s, of step {step}; accepted: a frame "
                    f"every {1 / self.fps:.3g} s"
                )
            size = (frame.height, frame.width)
            if not step:
                check_memory(len(wanted) * size[0] * size[1] * 3, "an episode of the video")
                images = np.empty((len(wanted), *size, 3), np.uint8)
            if size != images.shape[1:3]:
                raise DataError(
                    f"changes from {images.shape[1:3]} to {size} at step {step}; accepted: frames "
                    "of one size"
                )
            images[step] = self.reformatter.reformat(frame, format="rgb24").to_ndarray()
        return images

    def _frame(self, index: int) -> Any:
        """Decodes up to a frame that is not yet passed; None if there is none."""
        while self.position <= index and (frame := next(self.frames, None)) is not None:
            self.frame, self.position = frame, round(frame.time * self.fps) + 1
        return self.frame if self.position == index + 1 else None

    def close(self) -> None:
        self.container.close()

"""A GIF of an episode: halves side by side, a frame a step, with a caption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worldmodel.play.live_comparison import ComparedStep
from worldmodel.system.storage import make_directory, raise_storage_errors

HEIGHT = 240  # pixels of what is shown
CAPTION = 40  # above it
FONT = 13
GAP = 4  # between halves
COLOURS = 96  # of a frame: more would make the file larger, not clearer
LEAST_MILLISECONDS = 20  # of a frame; viewers slow down what is faster
INK, PAPER = "#1c1f23", "#ffffff"


class Video:
    """Collects frames, then writes them. `scenes` draw the halves, from left to right."""

    def __init__(
        self,
        path: str,
        scenes: Sequence[Callable[[ComparedStep], np.ndarray]],
        frames_per_second: float,
    ):
        self.path, self.scenes = Path(path).expanduser(), scenes
        self.milliseconds = max(round(1000 / frames_per_second), LEAST_MILLISECONDS)
        self.images: list[Image.Image] = []
        make_directory(self.path.absolute().parent)

    @property
    def frames(self) -> int:
        return len(self.images)

    def add(self, moment: ComparedStep) -> None:
        halves = [_fitted(scene(moment)) for scene in self.scenes]
        width = sum(half.width for half in halves) + GAP * (len(halves) - 1)
        whole = Image.new("RGB", (width, CAPTION + HEIGHT), PAPER)
        left = 0
        for half in halves:
            whole.paste(half, (left, CAPTION))
            left += half.width + GAP
        _write(whole, halves[0].width + GAP if len(halves) > 1 else width // 2, moment)
        # Without dithering what is equal on both sides stays so.
        self.images.append(whole.quantize(COLOURS, dither=Image.Dither.NONE))

    def write(self) -> None:
        """Writes the frames, at least one. Raises StorageError where the disk refuses."""
        first, *others = self.images
        with raise_storage_errors(self.path):
            first.save(
                self.path,
                save_all=True,
                append_images=others,
                duration=self.milliseconds,
                loop=0,
            )


def _fitted(frame: np.ndarray) -> Image.Image:
    """A frame (height, width, 3 or 1) in the height of videos."""
    frame = np.repeat(frame, 3, -1) if frame.shape[-1] == 1 else frame[..., :3]
    image = Image.fromarray(np.ascontiguousarray(frame, np.uint8))
    size = round(image.width * HEIGHT / image.height), HEIGHT
    enlarged = image.height < HEIGHT  # small images keep their pixels
    return image.resize(size, Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX)


def _write(whole: Image.Image, middle: int, moment: ComparedStep) -> None:
    """The captions of both halves."""
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(FONT)
    pen.text((6, 4), f"step {moment.step}: real", INK, font)
    pen.text((6, 20), f"reward {moment.reward:.3g}", INK, font)
    dreamed = moment.dreamed
    pen.text((middle + 6, 4), "dream" if dreamed else "dream: is shown the real one", INK, font)
    if dreamed:
        pen.text((middle + 6, 20), f"reward {dreamed.reward:.3g}", INK, font)

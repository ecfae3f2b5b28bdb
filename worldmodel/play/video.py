"""A GIF of an episode: one frame per step, its panels side by side, with captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worldmodel.play.live_comparison import ComparedStep
from worldmodel.system.storage import make_directory, raise_storage_errors, user_path

HEIGHT = 240  # of a panel, in pixels
CAPTION = 40  # above it
FONT = 13
GAP = 4  # between panels
COLOURS = 96  # of a frame: more make the file larger but not clearer
MIN_FRAME_MILLISECONDS = 20  # viewers slow down faster frames
INK, PAPER = "#1c1f23", "#ffffff"


class Video:
    """Collects frames, then writes them. `scenes` draw the panels, from left to right."""

    def __init__(
        self,
        path: str,
        scenes: Sequence[Callable[[ComparedStep], np.ndarray]],
        frames_per_second: float,
    ):
        self.path, self.scenes = user_path(path), scenes
        self.milliseconds = max(round(1000 / frames_per_second), MIN_FRAME_MILLISECONDS)
        self.images: list[Image.Image] = []
        make_directory(self.path.absolute().parent)

    @property
    def frames(self) -> int:
        return len(self.images)

    def add(self, step: ComparedStep) -> None:
        panels = [_resize(scene(step)) for scene in self.scenes]
        width = sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
        frame = Image.new("RGB", (width, CAPTION + HEIGHT), PAPER)
        left = 0
        for panel in panels:
            frame.paste(panel, (left, CAPTION))
            left += panel.width + GAP
        _draw_captions(frame, panels[0].width + GAP if len(panels) > 1 else width // 2, step)
        # Without dithering, equal panels stay equal.
        self.images.append(frame.quantize(COLOURS, dither=Image.Dither.NONE))

    def write(self) -> None:
        """Writes the frames, at least one. Raises StorageError if the disk does not accept them."""
        first, *others = self.images
        with raise_storage_errors(self.path):
            first.save(
                self.path,
                save_all=True,
                append_images=others,
                duration=self.milliseconds,
                loop=0,
            )


def _resize(frame: np.ndarray) -> Image.Image:
    """A frame (height, width, C) as a panel of the video's height: the first three channels as
    colors, or the first of fewer as gray.
    """
    frame = frame[..., :3] if frame.shape[-1] >= 3 else np.repeat(frame[..., :1], 3, -1)
    image = Image.fromarray(np.ascontiguousarray(frame, np.uint8))
    size = round(image.width * HEIGHT / image.height), HEIGHT
    enlarged = image.height < HEIGHT  # small images keep their pixels
    return image.resize(size, Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX)


def _draw_captions(frame: Image.Image, middle: int, step: ComparedStep) -> None:
    """Captions the real environment on the left and the dream from `middle` on."""
    pen, font = ImageDraw.Draw(frame), ImageFont.load_default(FONT)
    pen.text((6, 4), f"step {step.step}: real", INK, font)
    pen.text((6, 20), f"reward {step.reward:.3g}", INK, font)
    dreamed = step.dreamed
    pen.text((middle + 6, 4), "dream" if dreamed else "dream: filters the real one", INK, font)
    if dreamed:
        pen.text((middle + 6, 20), f"reward {dreamed.reward:.3g}", INK, font)

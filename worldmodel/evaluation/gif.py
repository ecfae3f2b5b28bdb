"""Moving pictures for a page: frames as one animated GIF within the HTML."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

FRAMES = (60, 40, 25, 15, 8)  # at most, evenly spaced; the first number that is small enough
MOST_BYTES = 300_000
LARGEST = 96  # pixels of a frame's height
MILLISECONDS = 100  # of a frame
COLOURS = 96
GAP = 2  # pixels between two that are side by side


def gif(frames: np.ndarray) -> str:
    """A data URI of uint8 frames (T, height, width, C); of C other than 1 or 3, the first."""
    for most in FRAMES:
        kept = np.linspace(0, len(frames) - 1, min(len(frames), most)).round().astype(int)
        first, *others = [_image(frames[i]) for i in kept]
        file = io.BytesIO()
        first.save(file, "GIF", save_all=True, append_images=others, duration=MILLISECONDS, loop=0)
        if file.tell() <= MOST_BYTES:
            break
    return f"data:image/gif;base64,{base64.b64encode(file.getvalue()).decode()}"


def concatenate_frames(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(T, height, width, C) twice -> (T, height, 2 widths and a white gap, C)."""
    gap = np.full((*left.shape[:2], GAP, left.shape[-1]), 255, np.uint8)
    return np.concatenate([left, gap, right], 2)


def _image(frame: np.ndarray) -> Image.Image:
    frame = frame if frame.shape[-1] in (1, 3) else frame[..., :1]
    image = Image.fromarray(np.ascontiguousarray(np.repeat(frame, 3 // frame.shape[-1], -1)))
    if image.height > LARGEST:
        image = image.resize((round(image.width * LARGEST / image.height), LARGEST))
    return image.quantize(COLOURS, dither=Image.Dither.NONE)

"""Which logged observations are images, in which layout and range: told by type, shape and values
where these are certain, else by options that the refusal names.
"""

from __future__ import annotations

import numpy as np

from worldmodel.config.groups import LAYOUTS, VECTOR
from worldmodel.data.images import AXES
from worldmodel.errors import DataError

FEW = 4  # channels of colors; an axis of so few is no side of a picture
MOST_CHANNELS = 32  # of stacked frames
LEAST_SIDE = 8  # pixels of a gray image without an axis of channels
MANY = 1024  # numbers of an array that is no vector unasked
ROUNDING = 1e-3  # by which values may exceed a range, in parts of it


def default_name(shape: tuple[int, ...], dtype: np.dtype) -> str:
    """The name of the only observation of a log, with rows of `shape`: `image` or `observation`."""
    try:
        return "image" if recognized_layout(shape, dtype) else "observation"
    except DataError:
        return "observation"


def recognized_layout(shape: tuple[int, ...], dtype: np.dtype) -> str | None:
    """The layout of an image, such as `chw`, or None for a vector.

    Args:
        shape: of one observation
        dtype: its type

    Raises:
        DataError: an array that could be either, or an image of several layouts

    Example:
        >>> import numpy as np
        >>> from worldmodel.data.image_layouts import recognized_layout
        >>> [recognized_layout(s, np.dtype("uint8")) for s in ((64, 64, 3), (4, 84, 84), (7,))]
        ['hwc', 'chw', None]
    """
    pixels = dtype in (np.uint8, np.uint16)
    many = int(np.prod(shape)) >= MANY
    if len(shape) < 2 or 0 in shape or dtype.kind not in "fiub":
        if dtype == np.uint8 and many:
            raise DataError(_ambiguous(shape, dtype))
        return None
    colors = len(shape) == 3 and pixels and dtype == np.uint8
    if not (many or colors or (pixels and min(shape) >= LEAST_SIDE)):
        return None
    layout = _layout(shape) if pixels or len(shape) > 2 else None
    if layout is None:
        raise DataError(_ambiguous(shape, dtype))
    return layout


def _layout(shape: tuple[int, ...]) -> str | None:
    """The layout that the sizes of the axes leave no doubt of, or None."""
    if len(shape) == 2:
        return "hw" if min(shape) >= LEAST_SIDE else None
    if len(shape) == 4:
        inner = _layout(shape[1:]) if shape[0] <= MOST_CHANNELS else None
        few = inner and shape[1 + inner.index("c")] <= FEW and min(_sides(shape[1:], inner)) > FEW
        return f"k{inner}" if few else None
    if len(shape) != 3:
        return None
    first, middle, last = shape
    if last <= FEW:
        return "hwc" if first > FEW or middle < 2 * LEAST_SIDE else None
    if first <= FEW:
        return "chw"
    if last <= MOST_CHANNELS and (first == middle or last < middle and first > MOST_CHANNELS):
        return "hwc" if last != middle else None
    if first <= MOST_CHANNELS and (middle == last or first < middle and last > MOST_CHANNELS):
        return "chw"
    return None


def _sides(shape: tuple[int, ...], layout: str) -> tuple[int, int]:
    return shape[layout.index("h")], shape[layout.index("w")]


def _ambiguous(shape: tuple[int, ...], dtype: np.dtype) -> str:
    fitting = [layout for layout in LAYOUTS if len(layout) == len(shape)]
    ways = f", or the order of the axes of an image: {', '.join(fitting)}" if fitting else ""
    return (
        f"is {dtype} of shape {shape} in every step, which may be an image or numbers; accepted: "
        f"data.images={{KEY: {VECTOR}}}{ways} (h: height, w: width, c: channels, k: frames)"
    )


def check_layout(layout: str, shape: tuple[int, ...]) -> None:
    """Raises DataError for a given layout that does not fit the shape of an observation."""
    if len(layout) != len(shape):
        raise DataError(
            f"has {len(shape)} axes {shape} in every step, the layout {layout!r} {len(layout)}; "
            f"accepted: one of the letters {AXES} for each axis"
        )


def recognized_range(values: np.ndarray) -> tuple[float, float]:
    """The numbers of black and white of an image, from the pixels of an episode.

    uint8 and bool have a range of their own. Others are 0 to 1, 0 to 255, -1 to 1 or, as uint16, 0
    to 65,535 where the values leave no doubt. Raises DataError where they do.
    """
    if values.dtype == np.uint8:
        return 0.0, 255.0
    if values.dtype == bool:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    fractions = values.dtype.kind == "f" and bool((values != np.rint(values)).any())
    if values.dtype == np.uint16 and high > 65535 / 4:
        return 0.0, 65535.0
    if values.dtype != np.uint16:
        if low >= 0 and 1 + ROUNDING < high <= 255 * (1 + ROUNDING):
            return 0.0, 255.0
        if fractions and low >= 0 and high <= 1 + ROUNDING:
            return 0.0, 1.0
        if fractions and -1 - ROUNDING <= low < 0 and high <= 1 + ROUNDING:
            return -1.0, 1.0
    white = 65535 if values.dtype == np.uint16 else 1 if values.dtype.kind == "f" else 255
    shown = f"[{low:.6g}, {high:.6g}]" if low < high else f"[0, {white}]"
    raise DataError(
        f"is an image of {values.dtype} from {low:.6g} to {high:.6g} in the first episode, which "
        "does not tell the numbers of black and white; accepted: data.image_range={KEY: "
        f"{shown}}} or others, beyond which pixels are clipped"
    )


def check_range(values: np.ndarray, black: float, white: float) -> None:
    """Raises DataError for pixels outside a range that the first episode suggested."""
    low, high = min(black, white), max(black, white)
    slack = ROUNDING * (high - low)
    if values.dtype == np.uint8 or values.dtype == bool:
        return
    outside = ~((values >= low - slack) & (values <= high + slack))
    if outside.any():
        place = np.unravel_index(int(outside.argmax()), outside.shape)
        raise DataError(
            f"pixel {values[place]} at step {place[0]}; accepted: {low:g} to {high:g}, as the "
            "first episode has. Set data.image_range={KEY: [BLACK, WHITE]}"
        )


def check_finite(values: np.ndarray) -> None:
    """Raises DataError for pixels that are not numbers."""
    if values.dtype.kind == "f" and (missing := np.isnan(values)).any():
        step = int(np.unravel_index(int(missing.argmax()), missing.shape)[0])
        raise DataError(f"pixel NaN at step {step}; accepted: numbers")

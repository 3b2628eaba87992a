"""Value ranges of arrays.

A range maps the values of an array, in the units of its file, to [-1, 1]: "LOW HIGH" for all
channels, or a pair for each; values outside are clipped. With percent signs, such as "1% 99%", they
are percentiles, measured for each channel on up to 100 training pairs.
"""

import math

import numpy as np

from engine.cli import UserError


def is_range(text: str, channels: int) -> bool:
    """Whether a text is LOW HIGH, such a pair for each channel, or percentiles such as 1% 99%; or
    empty."""
    words = text.split()
    try:
        numbers = [float(word.removesuffix("%")) for word in words]
    except ValueError:
        return False
    if not all(low < high for low, high in zip(numbers[::2], numbers[1::2], strict=False)):
        return False
    if "%" in text:
        return text.count("%") == len(words) == 2 and numbers[0] >= 0 and numbers[1] <= 100
    return len(words) in (0, 2, 2 * channels) and all(map(math.isfinite, numbers))


def ends_of(value_range: str) -> tuple[np.ndarray, np.ndarray]:
    """The low and the high ends of a range, float32: (1,), or (C,)."""
    numbers = np.array(value_range.split(), np.float32)
    return numbers[::2], numbers[1::2]


def to_unit(array: np.ndarray, value_range: str) -> np.ndarray:
    """Maps the values of a range to [-1, 1]; clips others. NaN, which is nodata, stays."""
    low, high = ends_of(value_range)
    return ((array - low) / (high - low) * 2 - 1).clip(-1, 1)


def from_unit(array: np.ndarray, value_range: str) -> np.ndarray:
    """The inverse of `to_unit`."""
    low, high = ends_of(value_range)
    return (array + 1) / 2 * (high - low) + low


def is_eight_bit(value_range: str, channels: int, nodata: str = "") -> bool:
    """Whether the values of a range, and `nodata` if any, fit an 8-bit gray, RGB or RGBA image."""
    if "%" in value_range or not value_range or channels not in (1, 3, 4):
        return False
    low, high = ends_of(value_range)
    holds = not nodata or nodata in map(str, range(256))
    return holds and (low == 0).all() and (high == 255).all()


def measure_range(value_range: str, pixels, channels: int, side: str) -> str:
    """Replaces percentiles by those of the arrays `pixels`, (N, C), that have `channels` channels,
    without NaN; returns other ranges as they are. `side` is A or B. Raises UserError."""
    if "%" not in value_range:
        return value_range
    fitting = [some for some in pixels if some.shape[1] == channels]
    if not fitting:
        counts = sorted({some.shape[1] for some in pixels})
        raise UserError(
            f"{side} has {counts} channels, not {channels}, to measure {value_range} on"
        )
    percents = [float(word.rstrip("%")) for word in value_range.split()]
    numbers = []
    for channel, values in enumerate(np.concatenate(fitting).T, 1):
        values = values[~np.isnan(values)]
        if not values.size:
            raise UserError(f"channel {channel} of {side} holds nothing but nodata")
        low, high = np.percentile(values, percents)
        if low == high:
            found = f"both {low:.7g} in channel {channel} of {side}"
            raise UserError(f"the percentiles {value_range} are {found}; give LOW HIGH as numbers")
        numbers += [low, high]
    return " ".join(f"{number:.7g}" for number in numbers)

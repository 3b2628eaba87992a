"""Pixels without data in arrays: outside of a scan, behind clouds.

Files hold a value for them, such as -9999, or NaN, which the field `nodata` names. Between reading
and the network they are NaN, so that nothing takes the value for a measurement.
"""

import math

import numpy as np

from engine.cli import UserError

NOWHERE = np.zeros((1, 1, 1), bool)  # no pixel is missing


def is_nodata(text: str) -> bool:
    """Whether a text is a number or nan; or empty."""
    try:
        return not text or float(text) is not None
    except ValueError:
        return False


def mark_nodata(array: np.ndarray, nodata: str) -> np.ndarray:
    """The array, float32, with NaN for the value `nodata`, and where it is NaN already. Raises
    UserError on values that are not finite otherwise."""
    array = array.astype(np.float32)
    if nodata:
        array[array == np.float32(nodata)] = np.nan
    if np.isinf(array).any() or (not nodata and np.isnan(array).any()):
        raise UserError("some of its values are not finite; --nodata nan marks pixels without data")
    return array


def fill_nodata(unit: np.ndarray) -> np.ndarray:
    """An array in [-1, 1] for the network: the low end in place of NaN. Or uint8, as it is."""
    missing = np.isnan(unit)
    return np.where(missing, np.float32(-1), unit) if missing.any() else unit


def write_nodata(array: np.ndarray, missing: np.ndarray, nodata: str) -> np.ndarray:
    """The array with the value `nodata` in all channels of the pixels that are `missing`, (H, W, C)
    bool, in any channel."""
    if not nodata:
        return array
    return np.where(missing.any(axis=2, keepdims=True), np.float32(nodata), array)


def mean_error(
    output: np.ndarray, target: np.ndarray, no_input: np.ndarray, no_target: np.ndarray
) -> float:
    """The mean absolute difference of two arrays (H, W, C) where there are data; NaN if nowhere.
    `no_input` and `no_target` say where there are none, (H, W, C) bool."""
    missing = np.broadcast_to(no_input.any(axis=2, keepdims=True) | no_target, target.shape)
    errors = abs(output - target)[~missing]
    return float(errors.mean()) if errors.size else math.nan


def stray_value(values: np.ndarray) -> float | None:
    """The lowest or the highest of the values if more than 1 % have it and it is farther from the
    next than the others are from each other, in which case it probably stands for nodata."""
    found, counts = np.unique(values, return_counts=True)
    if len(found) < 17:  # classes, or a mask
        return None
    for end, others in ((0, found[1:]), (-1, found[:-1])):
        gap = abs(found[end] - others[end])
        if counts[end] > 0.01 * values.size and gap > others[-1] - others[0]:
            return float(found[end])
    return None

"""Large images in overlapping tiles, so that memory does not grow with their size."""

from itertools import product

import torch
from torch import Tensor
from tqdm import tqdm


def apply_in_tiles(run, x: Tensor, side: int) -> Tensor:
    """Applies `run`, (C, H, W) -> (C', H, W), to tiles of at most `side` px, which overlap by half
    and are blended linearly."""
    height, width = x.shape[-2:]
    if max(height, width) <= side:
        return run(x)
    (tops, rows), (lefts, columns) = (tiles(length, side) for length in (height, width))
    weights = rows[:, None] * columns
    total, share = 0, torch.zeros(1, height, width)
    corners = list(product(tops, lefts))
    for top, left in tqdm(corners, "tiles", leave=False, disable=None):
        place = (..., slice(top, top + len(rows)), slice(left, left + len(columns)))
        part = run(x[place]) * weights  # may have other channels than x
        total = total if share.any() else part.new_zeros(len(part), height, width)
        total[place] += part
        share[place] += weights
    return total.div_(share)


def tiles(length: int, side: int) -> tuple[list[int], Tensor]:
    """Where the tiles along one side of an image begin, and the weight of each of their pixels."""
    side = min(side, length)
    starts = [*range(0, length - side, max(1, side // 2)), length - side]
    middle = torch.arange(side) + 0.5
    return starts, torch.minimum(middle, side - middle)

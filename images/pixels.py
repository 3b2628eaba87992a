"""Pixels <-> tensors. A tensor image is (C, H, W), floats in [-1, 1]."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from images.ranges import is_eight_bit


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Pixels (..., H, W, C) or (H, W) -> (..., C, H, W) in [-1, 1], where floats already are."""
    # In NumPy, on one thread: torch's threads would wait for each other on shared cores.
    values = np.array(np.moveaxis(np.atleast_3d(pixels), -1, -3), np.float32, order="C")
    if pixels.dtype == np.uint8:
        values /= 127.5
        values -= 1
    return torch.from_numpy(values)


def eight_bits(image: Tensor) -> Tensor:
    """[-1, 1] -> whole numbers in [0, 255], as floats: the values an image file keeps."""
    return ((image.float() + 1) * 127.5).round().clamp(0, 255)


def visible_channels(image: Tensor) -> Tensor:
    """The channels of (C, H, W) that are shown: 1 or 3 as they are, else the first 3,
    or the first of 2."""
    return image if len(image) in (1, 3) else image[: 3 if len(image) > 3 else 1]


def to_image(image: Tensor, value_range: str = "") -> Image.Image:
    """(C, H, W) in [-1, 1], C 1 or 3 -> a PIL image in mode L or RGB; four channels of an array in
    0 to 255 -> RGBA."""
    rgba = len(image) == 4 and is_eight_bit(value_range, 4)
    pixels = eight_bits((image if rgba else visible_channels(image)).cpu()).to(torch.uint8)
    return Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy())


def resize(image: Tensor, size) -> Tensor:
    """(C, H, W) -> (C, *size), bicubic with antialiasing."""
    size = [max(1, side) for side in size]
    if list(image.shape[-2:]) == size:
        return image
    return F.interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(-1, 1)


def resize_with_nodata(image: Tensor, size) -> Tensor:
    """`resize` for an image in which NaN is nodata: means of the data alone, and nodata where less
    than half of a pixel are data."""
    missing = image.isnan()
    if not missing.any() or list(image.shape[-2:]) == list(size):
        return resize(image, size)
    both = torch.stack([image.nan_to_num(0), (~missing).float()])
    data, share = F.interpolate(both, list(size), mode="bicubic", antialias=True)
    return (data / share).clamp(-1, 1).masked_fill(share < 0.5, torch.nan)


# ---- Batches ----------------------------------------------------------------------------------


def collate(items: list[dict]) -> dict[str, Tensor | list[str]]:
    """Stacks pixels (H, W, C), as (B, C, H, W), and tensors; lists strings. In NumPy, on one
    thread, as `to_tensor`."""
    batch = {key: [item[key] for item in items] for key in items[0]}
    for key, values in batch.items():
        if isinstance(values[0], Tensor):
            batch[key] = torch.from_numpy(np.stack(values))
        elif isinstance(values[0], np.ndarray):
            batch[key] = torch.from_numpy(np.stack(values)).permute(0, 3, 1, 2)
    return batch


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """(B, C, H, W), uint8 or float32 -> the floats of `to_tensor`, equal bit for bit, on the
    device. uint8 is copied as it is, a quarter of the bytes."""
    if device.type == "cpu":
        return to_tensor(images.movedim(1, -1).numpy())
    images = images.to(device, non_blocking=device.type == "cuda")
    floats = images.to(torch.float32, memory_format=torch.contiguous_format)
    if images.dtype == torch.uint8:
        # A GPU would multiply by a number's reciprocal, which rounds differently.
        floats.div_(torch.full((), 127.5, device=device)).sub_(1)
    return floats

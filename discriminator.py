"""The discriminator: D(x, y), real or generated, judged patch by patch (Section 3.2.2).

    D = PatchDiscriminator()                 # 70x70 patches, 2,768,705 parameters
    logits = D(x, y)                         # two (B, 3, 256, 256) -> (B, 1, 30, 30)

Each output value is the logit of "this patch of y is real, given x". Convolutions are 4x4 with
padding 1:

    receptive field        stride 2                      stride 1     output for 256x256
      1 (PixelGAN)         none: 1x1 convolutions        C64-C128     256x256
     16                    C64                           C128         126x126
     34                    C64-C128                      C256          62x62
     70 (default)          C64-C128-C256                 C512          30x30
    142                    C64-C128-C256-C512            C512          14x14
    286 (ImageGAN)         C64-C128-C256-C512-C512       C512           6x6

followed by a convolution of stride 1 to a single channel (1x1 for PixelGAN).
"""

import torch
from torch import Tensor, nn

from generator import NORMS, in_full_precision, initialize

# Strided layers of each receptive field: each additional one doubles the patch and adds 2 pixels.
STRIDED_LAYERS = {1: 0, 16: 1, 34: 2, 70: 3, 142: 4, 286: 5}


class PatchDiscriminator(nn.Module):
    """PatchGAN.

    Args:
        in_channels: total input channels: x and y concatenated, 3 + 3.
        base_channels: filters of the first layer; they double up to 8 times as many. Paper: 64.
        receptive_field: side of the patch in pixels: 1, 16, 34, 70, 142 or 286.
        norm: "batch", or "instance": the statistics of each image, at any batch size.

    Shapes: (B, in_channels, H, W) -> (B, 1, h, w), logits: the paper's sigmoid is part of the
    loss, for numerical safety. Raises ValueError on an unsupported receptive field.
    """

    def __init__(
        self,
        in_channels: int = 6,
        base_channels: int = 64,
        receptive_field: int = 70,
        norm: str = "batch",
    ):
        super().__init__()
        if receptive_field not in STRIDED_LAYERS:
            raise ValueError(
                f"receptive_field is {receptive_field}; it must be one of {sorted(STRIDED_LAYERS)}"
            )
        strided = STRIDED_LAYERS[receptive_field]
        kernel, padding = (1, 0) if receptive_field == 1 else (4, 1)
        strides = [2] * strided + [1] if strided else [1, 1]

        layers = []
        channels = in_channels
        for i, stride in enumerate(strides):
            width = base_channels * min(2**i, 8)
            normed = i > 0  # no norm in the first layer
            layers.append(nn.Conv2d(channels, width, kernel, stride, padding, bias=not normed))
            if normed:
                layers.append(NORMS[norm](width))
            layers.append(nn.LeakyReLU(0.2))
            channels = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, kernel, 1, padding))
        self.apply(initialize)

    def forward(self, *images: Tensor) -> Tensor:
        """Logits of D(x, y), or of D(y) for the unconditional GAN of Section 4.2."""
        features = self.layers[:-1](torch.cat(images, dim=1))
        return in_full_precision(self.layers[-1], features)

    def patch(self, row: int, column: int) -> tuple[int, int, int, int]:
        """The pixels an output value sees: left, top, right, bottom, as Pillow crops. At the edges
        of the image they extend into the padding."""
        first, side, stride = 0, 1, 1  # of the patch of the first value, layer by layer
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                first -= layer.padding[0] * stride
                side += (layer.kernel_size[0] - 1) * stride
                stride *= layer.stride[0]
        left, top = first + column * stride, first + row * stride
        return left, top, left + side, top + side

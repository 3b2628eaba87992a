"""The discriminator: D(x, y), real or generated, judged patch by patch (Section 3.2.2).

    from discriminator import PatchDiscriminator

    D = PatchDiscriminator()                 # 70x70 patches, 2,768,705 parameters
    logits = D(x, y)                         # two (B, 3, 256, 256) -> (B, 1, 30, 30)

Each output value sees one patch of `receptive_field` pixels, and is the logit of "this patch of y
is real, given x". All convolutions are 4x4 with padding 1:

    receptive field        strided by 2                  stride 1     256x256 gives
      1 (PixelGAN)         none: 1x1 convolutions        C64-C128     256x256
     16                    C64                           C128         126x126
     34                    C64-C128                      C256          62x62
     70 (the paper's)      C64-C128-C256                 C512          30x30
    142                    C64-C128-C256-C512            C512          14x14
    286 (ImageGAN)         C64-C128-C256-C512-C512       C512           6x6

and after each of them one more of stride 1 to a single channel (1x1 for PixelGAN).
"""

import torch
from torch import Tensor, nn

# Strided layers of each receptive field: every one more doubles the patch, and adds 2 pixels.
STRIDED_LAYERS = {1: 0, 16: 1, 34: 2, 70: 3, 142: 4, 286: 5}


class PatchDiscriminator(nn.Module):
    """PatchGAN.

    Args:
        in_channels: channels of all it is shown together: x and y, 3 + 3.
        base_channels: filters of the first layer; they double up to 8 times as many. Paper: 64.
        receptive_field: side of the patch in pixels: 1, 16, 34, 70, 142 or 286.
        norm: "batch", or "instance" for statistics of each picture alone at every batch size.

    Shapes: (B, in_channels, H, W) -> (B, 1, h, w), logits: the paper's sigmoid is part of the
    loss, where it is numerically safe. Raises ValueError on another receptive field.
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
                f"receptive_field is {receptive_field}; it can be {sorted(STRIDED_LAYERS)}"
            )
        strided = STRIDED_LAYERS[receptive_field]
        # (kernel size, padding)
        kernel = (1, 0) if receptive_field == 1 else (4, 1)
        strides = [2] * strided + [1] if strided else [1, 1]

        layers = []
        channels = in_channels
        for i, stride in enumerate(strides):
            width = base_channels * min(2**i, 8)
            normed = i > 0  # by the paper not after the first layer
            layers.append(nn.Conv2d(channels, width, kernel[0], stride, kernel[1], bias=not normed))
            if normed:
                layers.append(NORMS[norm](width))
            layers.append(nn.LeakyReLU(0.2))
            channels = width
        layers.append(nn.Conv2d(channels, 1, kernel[0], 1, kernel[1]))
        self.layers = nn.Sequential(*layers)
        self.apply(initialize)

    def forward(self, *images: Tensor) -> Tensor:
        """Logits of D(x, y), or of D(y) for the unconditional GAN of Section 4.2."""
        return self.layers(torch.cat(images, dim=1))

    def patch(self, row: int, column: int) -> tuple[int, int, int, int]:
        """The pixels that one output value sees: left, top, right, bottom, as Pillow crops.

        At the edges of the picture it reaches beyond, into the padding.
        """
        first, side, stride = 0, 1, 1  # of the patch of the first value, layer by layer
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                first -= layer.padding[0] * stride
                side += (layer.kernel_size[0] - 1) * stride
                stride *= layer.stride[0]
        left, top = first + column * stride, first + row * stride
        return left, top, left + side, top + side


# As in generator.py, repeated so that each network's file can be read and used alone.
NORMS = {
    "batch": lambda channels: nn.BatchNorm2d(channels, track_running_stats=False),
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
}


def initialize(module: nn.Module) -> None:
    """Weights N(0, 0.02), norm scales N(1, 0.02), biases 0."""
    if isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    elif isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)

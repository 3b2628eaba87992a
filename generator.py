"""The generator: G(x, z), image to image (Sections 3.2.1 and 6.1.1).

    G = UNetGenerator()                      # 54,413,955 parameters, for 256x256 images
    y = G(x)                                 # (B, 3, H, W) -> (B, 3, H, W), values in [-1, 1]

Every convolution is 4x4, stride 2, padding 1. In the paper's notation, at depth 8 and 256x256:

    encoder  C64-C128-C256-C512-C512-C512-C512-C512      256 px -> 1 px
    decoder  CD512-CD512-CD512-C512-C256-C128-C64-out      1 px -> 256 px
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UNetGenerator(nn.Module):
    """An encoder-decoder whose decoder layers also see the encoder layer of their size.

    Args:
        in_channels: channels of x.
        out_channels: channels of G(x).
        base_channels: filters of the first layer; they double up to 8 times as many. Paper: 64.
        depth: downsampling layers: 8 for 256 px, where the bottleneck is 1 px; 7 for 128 px.
        dropout: probability of dropout after some decoder layers. It is the noise z.
        norm: "batch", or "instance": the statistics of each image, at any batch size.
        upsampling: "transposed" convolutions, or "resize": upsample, then convolve, which avoids
            checkerboard artifacts (Odena et al., Distill 2016).
        dropout_layers: "paper", after decoder layers 1 to 3 (2, 4 and 8 px), or "port", as in the
            PyTorch port, after layers 2 to depth - 4 (at depth 8: 4, 8 and 16 px).

    Shapes: (B, in_channels, H, W) -> (B, out_channels, H, W), values in [-1, 1], H and W multiples
    of 2**depth. Raises ValueError on other sizes, and on a depth below 2, or below 6 for "port".
    """

    joins_skips = True

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        base_channels: int = 64,
        depth: int = 8,
        dropout: float = 0.5,
        norm: str = "batch",
        upsampling: str = "transposed",
        dropout_layers: str = "paper",
    ):
        super().__init__()
        if depth < 2:
            raise ValueError(f"depth is {depth}; the generator needs at least 2 layers each way")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.depth = depth
        self.dropout = dropout
        self.dropped = {"paper": range(3), "port": range(1, depth - 4)}[dropout_layers]
        if not self.dropped:
            raise ValueError(f"depth is {depth}; dropout_layers 'port' needs 6 or more")

        widths = [base_channels * min(2**i, 8) for i in range(depth)]
        joined = 2 if self.joins_skips else 1

        self.encoder = nn.ModuleList()
        for i, width in enumerate(widths):
            # No norm in the first layer (Section 6.1.1), nor in the bottleneck (erratum, 6.3): at
            # batch 1 it would make its single pixel zero whatever the input.
            normed = 0 < i < depth - 1
            channels = widths[i - 1] if i > 0 else in_channels
            self.encoder.append(down(channels, width, i > 0, norm if normed else None))

        self.decoder = nn.ModuleList([up(widths[-1], widths[-2], norm, upsampling)])
        for i in range(depth - 2, 0, -1):
            self.decoder.append(up(joined * widths[i], widths[i - 1], norm, upsampling))
        self.output = nn.Sequential(
            nn.ReLU(), *doubling(joined * widths[0], out_channels, upsampling, bias=True), nn.Tanh()
        )
        self.apply(initialize)

    def forward(
        self, x: Tensor, noise: bool = True, random: torch.Generator | None = None
    ) -> Tensor:
        """Translates x. Two calls differ, because z is drawn anew.

        As in the paper (Section 3.1), dropout stays on in `.eval()`. With `noise=False` it is off,
        and the same x always gives the same output. With `random`, a generator on the CPU, z
        follows from its seed alone: it is the same on any device and in any memory layout.
        """
        height, width = x.shape[-2:]
        if height % 2**self.depth or width % 2**self.depth:
            raise ValueError(
                f"the input is {width}x{height}; a generator of depth {self.depth} takes "
                f"multiples of {2**self.depth} (utils.translate takes any size)"
            )
        skips = []
        for layer in self.encoder:
            x = layer(x)
            skips.append(x)
        skips.pop()  # the bottleneck has no skip
        for i, layer in enumerate(self.decoder):
            x = layer(x)
            if i in self.dropped and noise:
                x = self.drop(x, random)
            skip = skips.pop()
            if self.joins_skips:
                x = torch.cat([x, skip], dim=1)
        return in_full_precision(self.output, x)

    def drop(self, x: Tensor, random: torch.Generator | None) -> Tensor:
        if random is None:
            return F.dropout(x, self.dropout)
        kept = torch.rand(x.shape, generator=random) >= self.dropout
        return x * kept.to(x.device) / (1 - self.dropout)


class EncoderDecoderGenerator(UNetGenerator):
    """The paper's ablation (Section 4.3): the same layers without skip connections."""

    joins_skips = False


def down(in_channels: int, out_channels: int, activated: bool, norm: str | None) -> nn.Sequential:
    """Ck of the encoder, (B, in, H, W) -> (B, out, H/2, W/2).

    Activations come before convolutions, so that skips carry plain values and each side applies its
    own: leaky ReLU here, ReLU in the decoder.
    """
    layers = [nn.LeakyReLU(0.2)] if activated else []
    layers.append(nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False))
    if norm:
        layers.append(NORMS[norm](out_channels))
    return nn.Sequential(*layers)


def up(in_channels: int, out_channels: int, norm: str, upsampling: str) -> nn.Sequential:
    """Ck of the decoder, (B, in, H, W) -> (B, out, 2H, 2W)."""
    layers = doubling(in_channels, out_channels, upsampling, bias=False)
    return nn.Sequential(nn.ReLU(), *layers, NORMS[norm](out_channels))


def doubling(in_channels: int, out_channels: int, upsampling: str, bias: bool) -> list[nn.Module]:
    if upsampling == "resize":
        convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)
        return [nn.Upsample(scale_factor=2), convolution]
    return [nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=bias)]


def in_full_precision(layer: nn.Module, x: Tensor) -> Tensor:
    """Applies a last layer outside of autocast: nothing behind it averages out rounding."""
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.to(torch.promote_types(x.dtype, torch.float32)))


# BatchNorm uses the statistics of the current batch, at test time as well (Section 3.3), so it
# keeps no running averages and `.eval()` changes nothing. At batch 1 it is instance norm.
NORMS = {
    "batch": lambda channels: nn.BatchNorm2d(channels, track_running_stats=False),
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
}


def initialize(module: nn.Module) -> None:
    """Weights N(0, 0.02), norm scales N(1, 0.02), biases 0 (Section 6.2 and the Lua code)."""
    weight = getattr(module, "weight", None)
    if weight is None or weight.is_meta:  # normal_ on "meta" would import torch._dynamo, 2 seconds
        return
    convolution = isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    nn.init.normal_(weight, 0.0 if convolution else 1.0, 0.02)
    if module.bias is not None:
        nn.init.zeros_(module.bias)

"""The generator as a program of torch.export, which PyTorch alone loads and runs.

In operations that every PyTorch since 2.6 can write and load: no torch.Generator and no autocast,
hence not by `UNetGenerator.forward`.
"""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from generator import UNetGenerator


class Program(nn.Module):
    """G(x, z), H and W multiples of 2**depth. Dropout draws from PyTorch's default generator in the
    order of `UNetGenerator.forward`: `torch.manual_seed` before a call gives that seed's noise."""

    def __init__(self, generator: UNetGenerator, noise: bool):
        super().__init__()
        self.generator, self.noise = generator, noise

    def forward(self, x: Tensor) -> Tensor:
        generator, skips = self.generator, []
        for layer in generator.encoder:
            x = layer(x)
            skips.append(x)
        skips.pop()
        for i, layer in enumerate(generator.decoder):
            x = layer(x)
            if i in generator.dropped and self.noise:
                x = x * (torch.rand(x.shape) >= generator.dropout) / (1 - generator.dropout)
            skip = skips.pop()
            if generator.joins_skips:
                x = torch.cat([x, skip], dim=1)
        return generator.output(x)


class AnySize(Program):
    """The same for any H and W, as `utils.generate_any_size`: x is padded with its mirror image to
    multiples of 2**depth, and the output is cropped."""

    def forward(self, x: Tensor) -> Tensor:
        (height, width), multiple = x.shape[2:], 2**self.generator.depth
        x = x.index_select(0, torch.arange(unknown(x.shape[0])))
        x = x.index_select(2, mirrored(height, multiple))
        x = x.index_select(3, mirrored(width, multiple))
        y = super().forward(x)
        return y.index_select(2, torch.arange(height)).index_select(3, torch.arange(width))


def unknown(size: int) -> int:
    """The same size, but hidden from torch.export. If it knew that of the example, the program
    could be for sizes above 1 alone, and for the convolutions that suit the example."""
    size = torch.scalar_tensor(size, dtype=torch.int64).item()
    torch._check(size >= 1)
    return size


def mirrored(side: int, multiple: int) -> Tensor:
    """The pixels of a side that is padded to a multiple; see `Graph.mirrored` in onnx_graph.py."""
    multiples = unknown((side + multiple - 1) // multiple)
    pixels = torch.arange(multiples * multiple) % (2 * side)
    return torch.minimum(pixels, 2 * side - 1 - pixels)


def exported_program(
    generator: UNetGenerator, noise: bool = True, size: int | None = None
) -> ExportedProgram:
    """The generator as a program: (N, in_channels, H, W) -> (N, out_channels, H, W), float32 in
    [-1, 1], of any N, H and W; or with `size`, (1, in_channels, size, size) alone."""
    if size:
        example, sizes = torch.zeros(1, generator.in_channels, size, size), None
        program = Program(generator, noise)
    else:
        example, sizes = torch.zeros(2, generator.in_channels, 34, 34), {0: "N", 2: "H", 3: "W"}
        program = AnySize(generator, noise)
        sizes = ({axis: Dim(name, min=1) for axis, name in sizes.items()},)
    program = torch.export.export(program, (example,), dynamic_shapes=sizes, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    return program

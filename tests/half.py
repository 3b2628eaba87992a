"""train.py in fp16 on a CPU, with convolutions as a GPU computes them.

    python -m tests.half demo --precision fp16 --base_channels 16 --discriminator_channels 16 \\
        --epochs 10 --validate_epochs 10 --seed 0

Factors and results are in fp16, sums in fp32. PyTorch's own fp16 convolutions do the same, but on a
CPU their backward pass takes seconds. Any option of train.py; other precisions are not changed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import train
from engine import cli


class HalfConvolution(torch.autograd.Function):
    """Of fp16 tensors x and w, and a bias or None; `transposed` or not."""

    @staticmethod
    def forward(ctx, x, w, bias, stride, padding, transposed) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.arguments = (bias is not None, stride, padding, transposed)
        convolve = F.conv_transpose2d if transposed else F.conv2d
        bias = None if bias is None else bias.float()
        with torch.autocast("cpu", enabled=False):
            return convolve(x.float(), w.float(), bias, stride, padding).half()

    @staticmethod
    def backward(ctx, gradient):
        x, w = ctx.saved_tensors
        biased, stride, padding, transposed = ctx.arguments
        sizes = [gradient.shape[1]] if biased else None
        gradients = torch.ops.aten.convolution_backward(
            *(gradient.float(), x.float(), w.float(), sizes, stride, padding, (1, 1)),
            *(transposed, (0, 0), 1, ctx.needs_input_grad[:3]),
        )
        return *(each if each is None else each.half() for each in gradients), None, None, None


def use_half_convolutions(kind: type[nn.Module]) -> None:
    """Replaces what nn.Conv2d or nn.ConvTranspose2d compute in fp16."""
    plain = kind.forward

    def forward(self, x: Tensor) -> Tensor:
        in_fp16 = torch.is_autocast_enabled("cpu")
        if not in_fp16 or torch.get_autocast_dtype("cpu") != torch.float16:
            return plain(self, x)
        bias = None if self.bias is None else self.bias.half()
        arguments = (self.stride, self.padding, kind is nn.ConvTranspose2d)
        return HalfConvolution.apply(x.half(), self.weight.half(), bias, *arguments)

    kind.forward = forward


def main(argv=None) -> int:
    for kind in (nn.Conv2d, nn.ConvTranspose2d):
        use_half_convolutions(kind)
    return train.main(argv)


if __name__ == "__main__":
    cli.run(main)

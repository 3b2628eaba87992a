"""The generator as an ONNX graph, built node by node.

Not by torch.onnx: it writes the noise as Dropout, which onnxruntime strips when it loads a model,
and some versions of PyTorch do not accept the mirrored padding.
"""

from functools import reduce

import numpy as np
from torch import nn

from engine.cli import UserError
from generator import UNetGenerator
from sharing.exports import quantize

try:
    from onnx import ModelProto, TensorProto, helper, numpy_helper, shape_inference
except ImportError as error:
    raise UserError("ONNX files need a package: pip install onnx") from error


class Graph:
    """Collects nodes and constants. A node is named after its output. If `small`, convolutions have
    int8 weights with a scale for each output channel, a quarter of the size. Runtimes turn them
    back into floats when they load the file (Cast and Mul of constants)."""

    def __init__(self, small: bool):
        self.nodes, self.constants, self.small = [], [], small

    def add(self, operator: str, *inputs, name: str | None = None, **attributes) -> str:
        """Adds a node and returns its name. Inputs are names of nodes, or arrays (constants)."""
        name, names = name or f"{operator}_{len(self.nodes)}", list(inputs)
        for i, value in enumerate(inputs):
            if not isinstance(value, str):
                names[i] = f"{name}_{i}"
                self.constants.append(numpy_helper.from_array(np.asarray(value), names[i]))
        self.nodes.append(helper.make_node(operator, names, [name], name, **attributes))
        return name

    def layer(self, x: str, layer: nn.Module) -> str:
        """Adds a layer of the generator."""
        if isinstance(layer, nn.Sequential):
            return reduce(self.layer, layer, x)
        weights = [parameter.numpy() for parameter in layer.parameters()]
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            if self.small:
                axis = int(isinstance(layer, nn.ConvTranspose2d))
                steps, scale = (part.numpy() for part in quantize(layer.weight, axis))
                weights[0] = self.add("Cast", steps, to=TensorProto.FLOAT)
                weights[0] = self.add("Mul", weights[0], scale)
            operator = "Conv" if isinstance(layer, nn.Conv2d) else "ConvTranspose"
            return self.add(operator, x, *weights, strides=layer.stride, pads=2 * layer.padding)
        if isinstance(layer, nn.BatchNorm2d | nn.InstanceNorm2d):
            # BatchNorm with the statistics of one image (Section 3.3), at any batch size.
            return self.add("InstanceNormalization", x, *weights, epsilon=layer.eps)
        if isinstance(layer, nn.Upsample):
            scales = np.float32([1, 1, layer.scale_factor, layer.scale_factor])
            nearest = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            return self.add("Resize", x, "", scales, mode=layer.mode, **nearest)
        if isinstance(layer, nn.LeakyReLU):
            return self.add("LeakyRelu", x, alpha=layer.negative_slope)
        return self.add({nn.ReLU: "Relu", nn.Tanh: "Tanh"}[type(layer)], x)

    def dropout(self, x: str, share: float) -> str:
        """Adds dropout that stays on at inference."""
        dropped = self.add("Less", self.add("RandomUniformLike", x), np.float32(share))
        return self.add("Where", dropped, np.float32(0), self.add("Div", x, np.float32(1 - share)))

    def mirrored(self, x: str, axis: int, side: str, multiple: int) -> str:
        """Pads x along an axis to a multiple with its mirror image, as np.pad's "symmetric" does:
        with r = i mod 2 side, pixel i is pixel r of x or 2 side - 1 - r, whichever is less."""
        one, multiple = np.int64(1), np.int64(multiple)
        multiples = self.add("Div", self.add("Add", side, multiple - one), multiple)
        pixels = self.add("Range", np.int64(0), self.add("Mul", multiples, multiple), one)
        double = self.add("Add", side, side)
        pixels = self.add("Mod", pixels, double)
        mirror = self.add("Sub", self.add("Sub", double, one), pixels)
        return self.add("Gather", x, self.add("Min", pixels, mirror), axis=axis)


def onnx_model(
    generator: UNetGenerator, noise: bool = True, web: bool = False, size: int | None = None
) -> ModelProto:
    """`UNetGenerator.forward` for any size as an ONNX model: "input" (N, in_channels, H, W) ->
    "output" (N, out_channels, H, W), float32 in [-1, 1]. With `size`, a multiple of 2**depth, for
    (1, in_channels, size, size) alone: nothing is padded and all shapes are known, which OpenCV 4
    needs. For the web, dropout is a product with inputs, noise_0 ..., and weights are int8."""
    tensor, single = helper.make_tensor_value_info, TensorProto.FLOAT
    batch, *sides = [1, size, size] if size else ["N", "H", "W"]
    graph, skips, x = Graph(small=web), [], "input"
    inputs = [tensor(x, single, [batch, generator.in_channels, *sides])]
    if not size:
        shape = graph.add("Shape", x)
        for axis in (2, 3):
            side = graph.add("Gather", shape, np.int64(axis))
            x = graph.mirrored(x, axis, side, 2**generator.depth)
    for layer in generator.encoder:
        x = graph.layer(x, layer)
        skips.append(x)
    skips.pop()
    for i, layer in enumerate(generator.decoder):
        x = graph.layer(x, layer)
        if i in generator.dropped and web:
            of_noise = [batch, layer[-1].num_features, None, None]
            inputs.append(tensor(f"noise_{len(inputs) - 1}", single, of_noise))
            x = graph.add("Mul", x, inputs[-1].name)
        elif i in generator.dropped and noise:
            x = graph.dropout(x, generator.dropout)
        skip = skips.pop()
        if generator.joins_skips:
            x = graph.add("Concat", x, skip, axis=1)
    x = graph.layer(x, generator.output)
    if size:
        graph.add("Identity", x, name="output")
    else:
        axes = np.int64([2, 3])
        shown = graph.add("Gather", shape, axes)
        graph.add("Slice", x, np.int64([0, 0]), shown, axes, name="output")
    output = tensor("output", single, [batch, generator.out_channels, *sides])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "generator", inputs, [output], graph.constants),
        producer_name="pix2pix",
        opset_imports=[helper.make_opsetid("", 13)],  # the oldest with all of it, for old runtimes
        ir_version=7,
    )
    return shape_inference.infer_shapes(model) if size else model

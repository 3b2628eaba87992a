"""Share a trained generator: in the format of the Hugging Face Hub, or as an ONNX file.

    python export.py runs/mine                                   into runs/mine/export
    python export.py runs/mine --half --output shared            half as large
    python export.py runs/mine --onnx mine.onnx                  to use it without PyTorch
    python export.py runs/mine --onnx mine.onnx --no_dropout     and without the noise

evaluate.py and `utils.load_generator` take such a folder, and its name on the Hub once it is there.
Input and output of the ONNX file are float32 (N, C, H, W) in [-1, 1], of any height and width.
"""

from config import Parser, UserError, one_line_errors

if __name__ == "__main__":  # before the slow imports, so that --help and mistakes answer at once
    parser = Parser(__doc__)
    parser.add_argument("run", metavar="RUN", help="a run folder, or a checkpoint file")
    parser.add_argument("--output", metavar="FOLDER", help="default: export, in the run")
    parser.add_argument("--half", action="store_true", help="weights in half precision")
    parser.add_argument("--onnx", metavar="FILE", help="this ONNX file instead of a folder")
    parser.add_argument("--no_dropout", action="store_true", help="an ONNX file without the noise")
    with one_line_errors():
        ARGUMENTS = parser.parse_args()
        for name in ("no_dropout",) if ARGUMENTS.onnx is None else ("output", "half"):
            if getattr(ARGUMENTS, name):
                without = "needs" if ARGUMENTS.onnx is None else "can't be combined with"
                raise UserError(f"--{name} {without} --onnx")

import dataclasses
import json
from pathlib import Path

import numpy as np
from torch import nn

from files import replacing
from generator import UNetGenerator
from sharing import CARD, SHARED_FILES, WEIGHTS, is_shared, without_places
from utils import export_generator, load_generator, run_folder

# What `utils.translate` does around the network, and who uses the ONNX file has to.
AROUND = {
    "colorization": "the input is L / 50 - 1, the output a / 110 and b / 110 of Lab",
    "inpainting": "holes of the input are white, and only they are wanted of the output",
    "super_resolution": "the input has been enlarged already, bicubically",
    "edges": "the input is a drawing, lines of -1 on 1",
}


class Graph:
    """The nodes of an ONNX graph, put together one by one. A node's name is that of its output.

    Not by torch.onnx: it writes the noise as Dropout, which onnxruntime strips from what it loads;
    and one of its exporters is deprecated, while the other takes the mirrored rim in PyTorch 2.6
    and not in 2.15.
    """

    def __init__(self):
        self.nodes, self.constants = [], []

    def add(self, operator: str, *inputs, name: str | None = None, **attributes) -> str:
        """A node behind others, given by name, and arrays. Returns its name."""
        from onnx import helper, numpy_helper

        name, names = name or f"{operator}_{len(self.nodes)}", list(inputs)
        for i, value in enumerate(inputs):
            if not isinstance(value, str):
                names[i] = f"{name}_{i}"
                self.constants.append(numpy_helper.from_array(np.asarray(value), names[i]))
        self.nodes.append(helper.make_node(operator, names, [name], name, **attributes))
        return name

    def layer(self, x: str, layer: nn.Module) -> str:
        """A layer of the generator."""
        weights = [parameter.numpy() for parameter in layer.parameters()]
        if isinstance(layer, nn.Sequential):
            for part in layer:
                x = self.layer(x, part)
            return x
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            operator = "Conv" if isinstance(layer, nn.Conv2d) else "ConvTranspose"
            return self.add(operator, x, *weights, strides=layer.stride, pads=2 * layer.padding)
        if isinstance(layer, nn.BatchNorm2d | nn.InstanceNorm2d):
            # BatchNorm by the statistics of one picture (Section 3.3): several don't mix.
            return self.add("InstanceNormalization", x, *weights, epsilon=layer.eps)
        if isinstance(layer, nn.Upsample):
            scales = np.float32([1, 1, layer.scale_factor, layer.scale_factor])
            nearest = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            return self.add("Resize", x, "", scales, mode=layer.mode, **nearest)
        if isinstance(layer, nn.LeakyReLU):
            return self.add("LeakyRelu", x, alpha=layer.negative_slope)
        return self.add({nn.ReLU: "Relu", nn.Tanh: "Tanh"}[type(layer)], x)

    def dropout(self, x: str, share: float) -> str:
        dropped = self.add("Less", self.add("RandomUniformLike", x), np.float32(share))
        return self.add("Where", dropped, np.float32(0), self.add("Div", x, np.float32(1 - share)))

    def mirrored(self, x: str, axis: int, side: str, multiple: int) -> str:
        """x, filled up along an axis to a multiple with its mirror image, as by np.pad's symmetric:
        pixel i is pixel r = i mod 2 side of x, or 2 side - 1 - r, whichever is less."""
        one, multiple = np.int64(1), np.int64(multiple)
        multiples = self.add("Div", self.add("Add", side, multiple - one), multiple)
        pixels = self.add("Range", np.int64(0), self.add("Mul", multiples, multiple), one)
        double = self.add("Add", side, side)
        pixels = self.add("Mod", pixels, double)
        mirror = self.add("Sub", self.add("Sub", double, one), pixels)
        return self.add("Gather", x, self.add("Min", pixels, mirror), axis=axis)

    def generator(self, x: str, generator: UNetGenerator, noise: bool) -> str:
        """`UNetGenerator.forward` for any size. The last node is named output."""
        shape, skips = self.add("Shape", x), []
        for axis in (2, 3):
            side = self.add("Gather", shape, np.int64(axis))
            x = self.mirrored(x, axis, side, 2**generator.depth)
        for layer in generator.encoder:
            x = self.layer(x, layer)
            skips.append(x)
        skips.pop()
        for i, layer in enumerate(generator.decoder):
            x = self.layer(x, layer)
            if noise and i in generator.dropped:
                x = self.dropout(x, generator.dropout)
            skip = skips.pop()
            if generator.joins_skips:
                x = self.add("Concat", x, skip, axis=1)
        x = self.layer(x, generator.output)
        start, axes = np.int64([0, 0]), np.int64([2, 3])
        size = self.add("Gather", shape, axes)
        return self.add("Slice", x, start, size, axes, name="output")


def export_onnx(run: str | Path, path: str | Path, noise: bool = True) -> dict[str, str]:
    """Writes a run's generator as one ONNX file. `run` is whatever `load_generator` takes.

    The input, "input", is float32 (N, in_channels, H, W) in [-1, 1], of any height and width, the
    output, "output", (N, out_channels, H, W). Each of N pictures is translated as if alone. With
    `noise` each call draws another; after `onnxruntime.set_seed` a new session repeats the draws.
    Returns the metadata of the file. Raises UserError, also where the package onnx is missing.
    """
    try:
        from onnx import TensorProto, helper
    except ImportError as error:
        raise UserError("ONNX files need a package: pip install onnx") from error
    if Path(path).suffix != ".onnx":
        raise UserError(f"{path} is no name of an ONNX file; it has to end in .onnx")
    generator = load_generator(run)
    if sum(weight.nbytes for weight in generator.parameters()) > 2e9:
        raise UserError(f"{run} has weights of more than 2 GB, which an ONNX file can't hold")

    graph, config = Graph(), generator.config
    graph.generator("input", generator, noise)
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", channels, "H", "W"])]
        for name, channels in (("input", config.in_channels), ("output", config.out_channels))
    ]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "generator", *ends, graph.constants),
        producer_name="pix2pix",
        opset_imports=[helper.make_opsetid("", 13)],  # the oldest with all of it, for old runtimes
        ir_version=7,
    )
    metadata = {
        "config": json.dumps(dataclasses.asdict(without_places(config))),
        "task": config.task,
        "range": "input and output are float32 (N, C, H, W) in [-1, 1]",
        "dropout": "on" if noise else "off",
    }
    if config.task in AROUND:
        metadata["network"] = f"the network alone: {AROUND[config.task]}"
    helper.set_model_props(model, metadata)
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return metadata


def main(arguments) -> None:
    run = arguments.run
    if arguments.onnx is not None:
        noise = not arguments.no_dropout
        metadata = export_onnx(run, arguments.onnx, noise)
        size, kind = Path(arguments.onnx).stat().st_size / 1e6, "with" if noise else "without"
        print(f"wrote {arguments.onnx}, {size:.1f} MB, {kind} dropout; pixels are from -1 to 1")
        if "network" in metadata:
            print(metadata["network"])
        return

    folder = (Path() if is_shared(run) else run_folder(run)) / "export"
    folder = Path(arguments.output) if arguments.output else folder
    card = (folder / CARD).exists()
    export_generator(run, folder, arguments.half)
    size = (folder / WEIGHTS).stat().st_size / 1e6
    print(f"wrote {folder}: {', '.join(SHARED_FILES)}, {size:.1f} MB")
    if card:
        print(f"{folder / CARD} was there already and stays; remove it first for a new one")
    print(f"next: python evaluate.py {folder} --input x.jpg --output y.png")
    print(f"to share: hf upload owner/name {folder}   (then it is hf://owner/name)")


if __name__ == "__main__":
    with one_line_errors():
        main(ARGUMENTS)

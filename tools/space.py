"""The app of a Space, which tools/site.py writes beside model.onnx and runs.json."""

import json
from pathlib import Path

import gradio
import numpy
import onnxruntime
from PIL import Image

RUN = json.loads(Path("runs.json").read_text(encoding="utf-8"))["runs"][0]
SESSION = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
COLORS = {name: "#{:02x}{:02x}{:02x}".format(*color) for name, color in RUN["palette"].items()}


def translate(drawing: dict) -> Image.Image:
    image = drawing["composite"].convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "L" if SESSION.get_inputs()[0].shape[1] == 1 else "RGB"
    x = numpy.atleast_3d(numpy.asarray(image.convert(mode), numpy.float32)) / 127.5 - 1
    y = SESSION.run(None, {"input": x.transpose(2, 0, 1)[None]})[0][0].transpose(1, 2, 0)
    pixels = ((y + 1) * 127.5).round().clip(0, 255).astype(numpy.uint8)
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)


brush = gradio.Brush(colors=list(COLORS.values()) or ["#000000"])
size = (RUN["size"], RUN["size"])
legend = " ".join(f"`{color}` {name}" for name, color in COLORS.items())
start = RUN["examples"][0] if RUN["examples"] else Image.new("RGB", size, "white")
editor = gradio.ImageEditor(start, type="pil", brush=brush, canvas_size=size, label="input")
app = gradio.Interface(translate, editor, gradio.Image(), title=RUN["name"], description=legend)

if __name__ == "__main__":
    app.launch()

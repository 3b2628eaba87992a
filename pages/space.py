"""The app of a Space. tools/site.py writes it beside model.onnx and runs.json."""

import json
from pathlib import Path

import gradio
import numpy
import onnxruntime
from PIL import Image

RUN = json.loads(Path("runs.json").read_text(encoding="utf-8"))["runs"][0]
COLORS = {name: "#{:02x}{:02x}{:02x}".format(*color) for name, color in RUN["palette"].items()}
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])


def translate(drawing: dict) -> numpy.ndarray:
    image = drawing["composite"].convert("L" if RUN["channels"] == 1 else "RGB")
    x = numpy.atleast_3d(numpy.float32(image)).transpose(2, 0, 1)[None] / 127.5 - 1
    y = session.run(None, {"input": x})[0][0].transpose(1, 2, 0)
    return ((y + 1) * 127.5).round().clip(0, 255).astype(numpy.uint8).repeat(3 // y.shape[2], 2)


brush = gradio.Brush(colors=list(COLORS.values()) or ["#000000"])
start = next(iter(RUN["examples"]), Image.new("RGB", (RUN["size"],) * 2, "white"))
editor = gradio.ImageEditor(start, type="pil", image_mode="RGB", brush=brush, label="input")
legend = " ".join(f"`{color}` {name}" for name, color in COLORS.items())
about = {"title": RUN["name"], "description": legend, "flagging_mode": "never"}
app = gradio.Interface(translate, editor, gradio.Image(), **about)

if __name__ == "__main__":
    app.launch()

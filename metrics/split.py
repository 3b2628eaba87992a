"""Scores of a split, image by image and as a whole."""

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from engine.files import write_text
from metrics.class_numbers import NUMBERS
from metrics.images import (
    BINS,
    intersections,
    lab_histograms,
    relative_sharpness,
    score,
    sharpness,
    to_lab,
)
from metrics.labels import class_ious, class_scores, confusion, read_classes
from metrics.palettes import Palette


class ImageScores(NamedTuple):
    """The scores of one image, and what it contributes to those of the split."""

    row: dict[str, float]  # a line of scores.csv
    matrix: Tensor | int = 0  # confusion of labels
    gradients: np.ndarray | int = 0  # of output and target, a pair
    histograms: np.ndarray | int = 0  # likewise


class SplitScores:
    """Collects the scores of a split. All images are scored by L1, PSNR and SSIM; label maps, whose
    `palette` is given, also by class, and photos by sharpness and colors."""

    def __init__(self, palette: Palette | None = None):
        self.palette = palette
        self.scores = []  # of each image
        self.matrix = 0  # sums over the split; pairs are (output, target)
        self.gradients = np.zeros(2)
        self.histograms = np.zeros((2, 3, BINS))

    def measure(self, output: Tensor, target: Tensor) -> ImageScores:
        """The scores of one image, in any thread. output, target: (C, H, W) in [-1, 1]."""
        scores = score(output, target)
        if self.palette:
            true, predicted = (read_classes(image, self.palette) for image in (target, output))
            matrix = confusion(true, predicted, self.palette).cpu()
            row = {**scores, "pixel_accuracy": class_scores(matrix)["pixel_accuracy"]}
            return ImageScores(row, matrix=matrix)
        colors = to_lab(output), to_lab(target)
        gradients = np.array([sharpness(lab) for lab in colors])
        row = {**scores, "sharpness": relative_sharpness(*gradients)}
        histograms = np.array([lab_histograms(lab) for lab in colors])
        return ImageScores(row, gradients=gradients, histograms=histograms)

    def add(self, measured: ImageScores) -> None:
        """Adds the scores of one image."""
        self.scores.append({name: measured.row[name] for name in ("l1", "psnr", "ssim")})
        self.matrix += measured.matrix
        self.gradients += measured.gradients
        self.histograms += measured.histograms

    def summary(self) -> dict[str, float]:
        """Means of L1, PSNR and SSIM; the other scores are those of the split as a whole."""
        names = self.scores[0]
        means = {name: float(np.mean([scores[name] for scores in self.scores])) for name in names}
        if self.palette:
            return {**means, **class_scores(self.matrix)}
        means["sharpness"] = float(relative_sharpness(*self.gradients / len(self.scores)))
        for name, share in zip("lab", intersections(*self.histograms), strict=True):
            means[f"histogram_{name}"] = float(share)
        return means

    def ious(self) -> dict[str, float | None]:
        """The IoU of each class over the split; empty without a palette."""
        return class_ious(self.matrix, self.palette) if self.palette else {}


def write_scores(rows: dict[str, dict], summary: dict, folder: Path) -> None:
    """Writes scores.csv, a row for each image by name, and scores.json, the summary."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["name", *next(iter(rows.values()))])
    for name, values in rows.items():
        writer.writerow([name, *values.values()])
    write_text(folder / "scores.csv", table.getvalue())
    write_text(folder / "scores.json", json.dumps(summary, indent=2) + "\n")


# The lines of `report_scores`; not every task has every score.
LINES = (
    "L1 {l1:.4f}   PSNR {psnr:.2f} dB   SSIM {ssim:.4f}",
    "mean absolute error {mae:.6g} in the units of the targets",
    "sharpness {sharpness:.3f} relative to the targets",
    "color histogram intersection: L {histogram_l:.3f}   a {histogram_a:.3f}   b {histogram_b:.3f}",
    "labels: per-pixel {pixel_accuracy:.3f}   per-class {class_accuracy:.3f}   "
    "IoU {class_iou:.3f}   ({classes_present} classes present)",
    "labels read from outputs (not by FCN-8s): per-pixel {read_pixel_accuracy:.3f}   per-class "
    "{read_class_accuracy:.3f}   IoU {read_class_iou:.3f}   ({read_classes_present} classes)",
    "labels read from targets (not by FCN-8s): per-pixel {real_pixel_accuracy:.3f}   per-class "
    "{real_class_accuracy:.3f}   IoU {real_class_iou:.3f}",
)


def report_scores(summary: dict, data_root: str, folder: Path) -> None:
    """Prints the scores of a split, and where its files are."""
    print(f"{summary['images']} {summary['split']} images of {data_root}, mean scores:")
    for line in LINES:
        with contextlib.suppress(KeyError):
            print("  " + line.format(**summary))
    for name, iou in summary.get("class_ious", {}).items():
        print(f"    IoU {'-' if iou is None else f'{iou:.3f}':5}  {name}")
    print(f"  gallery   {folder / 'gallery.html'}  (open it in a browser)")
    print(f"  images    {folder / 'output'}  (and input, target)")
    if (folder / NUMBERS).is_dir():
        print(f"  labels    {folder / NUMBERS}  (the outputs as class numbers)")
    print(f"  grid      {folder / 'grid.png'}  (input | output | target)")
    print(f"  scores    {folder / 'scores.csv'}  (means in scores.json)")

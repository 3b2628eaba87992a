"""Scores of a split, image by image and as a whole."""

import csv
import io
import json
from pathlib import Path

import numpy as np
from torch import Tensor

from engine.files import write_text
from metrics.images import (
    BINS,
    intersections,
    lab_histograms,
    relative_sharpness,
    score,
    sharpness,
)
from metrics.labels import class_ious, class_scores, confusion, read_classes
from metrics.palettes import Palette


class SplitScores:
    """Collects the scores of a split. All images are scored by L1, PSNR and SSIM; label maps, whose
    `palette` is given, also by class, and photos by sharpness and colors."""

    def __init__(self, palette: Palette | None = None):
        self.palette = palette
        self.scores = []  # of each image
        self.matrix = 0  # sums over the split; pairs are (output, target)
        self.gradients = np.zeros(2)
        self.histograms = np.zeros((2, 3, BINS))

    def add(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """Adds one image and returns its scores. output, target: (C, H, W) in [-1, 1]."""
        scores = score(output[None], target[None])
        self.scores.append(scores)
        if self.palette:
            true, predicted = (read_classes(image, self.palette) for image in (target, output))
            matrix = confusion(true, predicted, self.palette).cpu()
            self.matrix += matrix
            return {**scores, "pixel_accuracy": class_scores(matrix)["pixel_accuracy"]}
        gradients = sharpness(output), sharpness(target)
        self.gradients += gradients
        self.histograms += [lab_histograms(output), lab_histograms(target)]
        return {**scores, "sharpness": relative_sharpness(*gradients)}

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

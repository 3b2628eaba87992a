"""FID and KID: distances between the outputs and the targets of a split as sets of images."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.cli import UserError
from engine.images import eight_bits


class Distances:
    """Collects the features of a split for FID and KID; 0 means equal distributions.

    `weights` is a file of the Inception network of the original FID, as published by
    torch-fidelity; nothing is downloaded. Raises UserError if the file or the package is missing.
    """

    def __init__(self, weights: str | Path, device: str | torch.device = "cpu"):
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise UserError(
                "FID and KID need the package torch-fidelity: pip install torch-fidelity"
            ) from error
        if not Path(weights).is_file():
            raise UserError(
                f"Inception's weights {weights} do not exist; get "
                "weights-inception-2015-12-05-6726825d.pth from "
                "https://github.com/toshas/torch-fidelity/releases"
            )
        try:
            torch.load(weights, weights_only=True)  # torch-fidelity itself would run pickled code
            network = FeatureExtractorInceptionV3("inception", ["2048"], str(weights))
        except Exception as error:  # torch.load raises nearly anything on a damaged file
            raise UserError(f"{weights} does not hold Inception's weights") from error
        self.network = network.to(device).eval()  # older versions leave that to the caller
        self.features = []  # (2, 2048) of each (output, target)

    @torch.inference_mode()
    def add(self, output: Tensor, target: Tensor) -> None:
        """Adds an image to each set; both (C, H, W) in [-1, 1], C 1 or 3, of one size."""
        images = torch.stack([eight_bits(image).expand(3, -1, -1) for image in (output, target)])
        device = next(self.network.parameters()).device
        self.features.append(self.network(images.to(device, torch.uint8))[0].cpu())

    def summary(self) -> dict[str, float]:
        """{"fid": ..., "kid": ...}. Raises UserError for fewer than 2 images.

        KID is the mean over 100 subsets of 50 images, or of all images if there are fewer.
        """
        from torchmetrics.image.fid import FrechetInceptionDistance  # imports that take seconds
        from torchmetrics.image.kid import KernelInceptionDistance

        if len(self.features) < 2:
            raise UserError("FID and KID compare sets of images; there must be 2 or more")
        # Both get the features, which are computed only once, in place of images.
        features = nn.Identity()
        features.num_features = 2048
        fid = FrechetInceptionDistance(features)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about memory, as it stores all features
            kid = KernelInceptionDistance(features, subset_size=min(50, len(self.features)))
        for real, images in zip((False, True), torch.stack(self.features, 1), strict=True):
            fid.update(images, real=real)
            kid.update(images, real=real)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # KID draws its subsets at random
            return {"fid": fid.compute().item(), "kid": kid.compute()[0].item()}

"""FID and KID: distances between the outputs and the targets of a split as sets of images."""

from pathlib import Path

import torch

from engine.cli import UserError


def check_inception(weights: str | Path) -> None:
    """Raises UserError unless the package torch-fidelity is installed and `weights` is a file of
    the Inception network of the original FID, as torch-fidelity publishes it."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise UserError("FID and KID need a package: pip install torch-fidelity") from error
    try:
        torch.load(weights, weights_only=True)  # torch-fidelity itself may run pickled code
        FeatureExtractorInceptionV3("inception", ["2048"], str(weights))
    except Exception as error:  # torch.load raises nearly anything on a damaged file
        raise UserError(
            f"{weights} does not hold Inception's weights, such as weights-inception-2015-12-05-"
            "6726825d.pth from https://github.com/toshas/torch-fidelity/releases"
        ) from error


def distances(
    outputs: list[Path], targets: list[Path], weights: str | Path, device: torch.device
) -> dict[str, float]:
    """{"fid": ..., "kid": ...} of two sets of image files; 0 means equal distributions. KID is the
    mean over 100 subsets of 50 images, or of all if there are fewer. Raises UserError."""
    if len(outputs) < 2:
        raise UserError("FID and KID compare sets of images; there must be 2 or more")
    from torch_fidelity import calculate_metrics
    from torch_fidelity.datasets import ImagesPathDataset, TransformPILtoRGBTensor

    output_set, target_set = (
        ImagesPathDataset([str(file) for file in files], TransformPILtoRGBTensor())
        for files in (outputs, targets)
    )
    options = {"cuda": device.type == "cuda", "cache": False, "verbose": False}
    options |= {"kid_subset_size": min(50, len(outputs)), "save_cpu_ram": True}  # in this process
    options["feature_extractor_weights_path"] = str(weights)
    with torch.random.fork_rng(devices=[]):  # it draws initial weights
        result = calculate_metrics(
            input1=output_set, input2=target_set, fid=True, kid=True, **options
        )
    names = {"fid": "frechet_inception_distance", "kid": "kernel_inception_distance_mean"}
    return {name: float(result[key]) for name, key in names.items()}

"""The learned perceptual distance between pictures (LPIPS), if its weights are on this machine.

torchmetrics brings LPIPS' own weights along, but those of AlexNet, on which it stands, come from a download of
torchvision. Nothing is ever downloaded here: without the file there is no distance, and a text that says why.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

logger = logging.getLogger(__name__)

ALEXNET = "alexnet-owt-7be5be79.pth"
"""The file of AlexNet's weights in the cache of `torch.hub`. torchvision's `AlexNet_Weights.DEFAULT` names it."""

GET_TORCHVISION = "pip install -c constraints.txt -e '.[lpips]', from the index that torch came from: builds must match"
GET_WEIGHTS = "python -c \"import torchvision; torchvision.models.alexnet(weights='DEFAULT')\""
BATCH = 64


@dataclass(frozen=True)
class Perceptual:
    """The distance of each picture, or why there is none."""

    distances: npt.NDArray[np.float64] | None  # [N]; 0 for equal pictures
    missing: str | None


def weights_file() -> Path:
    """Return where `torch.hub` keeps AlexNet's weights. TORCH_HOME moves it."""
    return Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET


def missing() -> str | None:
    """Return why LPIPS cannot be measured on this machine and how to change that, or None if it can be."""
    if importlib.util.find_spec("torchvision") is None:
        return f"LPIPS is not measured: torchvision is not installed ({GET_TORCHVISION})"
    if not weights_file().is_file():
        return (
            f"LPIPS is not measured: AlexNet's weights are not at {weights_file()}. On a machine with internet, "
            f"{GET_WEIGHTS} puts them there (233 MiB)"
        )
    return None


def perceptual_distances(imagined: torch.Tensor, true: torch.Tensor) -> Perceptual:
    """Return LPIPS with AlexNet of each pair of pictures, floats [N, 3, H, W] from 0 to 255.

    Pictures keep their size. AlexNet takes 32 x 32 pixels, but LPIPS was fitted to patches of 64 x 64.
    """
    reason = missing()
    if reason is not None:
        return Perceptual(None, reason)
    try:
        network = _network(weights_file())
    except Exception as error:  # a damaged file raises many types
        logger.debug("LPIPS", exc_info=error)
        reason = f"AlexNet does not load from {weights_file()} ({error}). A damaged file is removed, and got again"
        return Perceptual(None, f"LPIPS is not measured: {reason}")
    with torch.inference_mode():
        distances = [
            network(first.float() / 127.5 - 1, second.float() / 127.5 - 1).reshape(-1)
            for first, second in zip(imagined.split(BATCH), true.split(BATCH), strict=True)
        ]
    return Perceptual(torch.cat(distances).double().numpy(), None)


@functools.cache
def _network(weights: Path) -> torch.nn.Module:
    """Return the network. `weights` is what torchvision reads: the argument tells the networks of two places apart."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    network: torch.nn.Module = LearnedPerceptualImagePatchSimilarity(net_type="alex").net
    return network.eval()

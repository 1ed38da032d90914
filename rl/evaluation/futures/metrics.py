"""How far imagined pictures, depth and points are from the true ones.

All rows of a comparison are measured in the same way. Depth here is metric, so nothing is aligned by default; a scale
for each clip (`align` of `depth_errors`) is for models whose depth is known up to a factor only, and a comparison then
has to use it in all its rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from torchmetrics.functional.image import peak_signal_noise_ratio

from rl.evaluation.futures.clips import Pictures
from rl.evaluation.futures.perceptual import Perceptual, perceptual_distances

Array = npt.NDArray[np.float64]
Points = npt.NDArray[np.float32]
"""Metres in the world, float32 [N, 3]."""

HIGHEST_PSNR = 100.0
"""The PSNR of equal pictures, in dB. All other pictures of at most 226 x 226 pixels have less."""

SIGMA = 1.5
"""The standard deviation, in pixels, of SSIM's Gaussian window, which is 11 x 11 pixels large."""

SMALLEST = 11
"""The least height and width of a picture, in pixels: those of the window of SSIM."""

RATIO = 1.25
"""delta_1 counts the pixels whose depth is wrong by less than this factor."""


@dataclass(frozen=True)
class PictureErrors:
    """The mean over pictures of each measure. Higher is better for PSNR and SSIM, lower for LPIPS."""

    pictures: int
    psnr: float  # dB
    ssim: float
    lpips: float | None  # None: not measured
    lpips_missing: str | None  # why LPIPS was not measured, and what to do about it


@dataclass(frozen=True)
class DepthErrors:
    """The errors of depth over all valid pixels of a clip. Both are NaN without a valid pixel."""

    abs_rel: float  # the mean of |imagined - true| / true
    delta_1: float  # the share of pixels with max(imagined / true, true / imagined) < 1.25
    pixels: int  # the number of valid pixels
    valid_share: float  # the share of all pixels that are valid
    scale: float  # what imagined depth was multiplied by: 1 without alignment


@dataclass(frozen=True)
class Chamfer:
    """The distance between two sets of points. All are NaN if one of them is empty.

    The Chamfer distance of a table is `distance`. There are other definitions: 2 * `distance` is the sum of both
    directions, and `squared` sums the means of squared distances.
    """

    accuracy: float  # metres: the mean over imagined points of the distance to the nearest true one
    completeness: float  # metres: the mean over true points of the distance to the nearest imagined one
    distance: float  # metres: the mean of accuracy and completeness
    squared: float  # square metres: the means of the squared distances, both directions added up


def psnr(imagined: Pictures, true: Pictures) -> Array:
    """Return the peak signal-to-noise ratio of each picture in dB, float64 [N], at most `HIGHEST_PSNR`.

    The pictures are uint8 [N, H, W, 3], and the peak is 255. The squared error is averaged over pixels and channels.
    """
    values = peak_signal_noise_ratio(*_tensors(imagined, true), data_range=255.0, reduction="none", dim=(1, 2, 3))
    return np.minimum(values.numpy(), HIGHEST_PSNR)


def ssim(imagined: Pictures, true: Pictures) -> Array:
    """Return the structural similarity of each picture, float64 [N], at most 1.

    The pictures are uint8 [N, H, W, 3]. The window is a Gaussian with a standard deviation of 1.5 pixels, cut at
    11 x 11 pixels, with k1 = 0.01, k2 = 0.03 and a range of 255. The mean is that over channels and all places of the
    window; beyond the border the picture is mirrored, so that small pictures lose no border.
    """
    first, second = (tensor.numpy() for tensor in _tensors(imagined, true))
    first_mean, second_mean = _blurred(first), _blurred(second)
    first_variance = _blurred(np.square(first)) - first_mean**2
    second_variance = _blurred(np.square(second)) - second_mean**2
    covariance = _blurred(first * second) - first_mean * second_mean
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    brightness = (2 * first_mean * second_mean + c1) / (first_mean**2 + second_mean**2 + c1)
    structure = (2 * covariance + c2) / (first_variance + second_variance + c2)
    return np.asarray(np.mean(brightness * structure, axis=(1, 2, 3)))


def _blurred(pictures: Array) -> Array:
    """Blur pictures [N, C, H, W] with the window of SSIM: first one axis, then the other, which is far faster."""
    return np.asarray(gaussian_filter(pictures, SIGMA, axes=(2, 3), radius=SMALLEST // 2, mode="mirror"))


def lpips(imagined: Pictures, true: Pictures) -> Perceptual:
    """Return the learned perceptual distance (LPIPS, AlexNet) of each picture, or why it was not measured."""
    return perceptual_distances(*_tensors(imagined, true))


def picture_errors(imagined: Pictures, true: Pictures) -> PictureErrors:
    """Compare the pictures of a clip, uint8 [N, H, W, 3]."""
    learned = lpips(imagined, true)
    return PictureErrors(
        pictures=len(true),
        psnr=float(psnr(imagined, true).mean()),
        ssim=float(ssim(imagined, true).mean()),
        lpips=None if learned.distances is None else float(learned.distances.mean()),
        lpips_missing=learned.missing,
    )


def depth_errors(
    imagined: npt.ArrayLike, true: npt.ArrayLike, limits: tuple[float, float], align: bool = False
) -> DepthErrors:
    """Compare the depths of a clip, both [..., H, W] in metres.

    A pixel is valid if its true depth is finite and more than 0. Imagined depth is clamped to `limits`, the nearest and
    the farthest depth in metres that count; where it is 0 or less, which means "not known", or infinite, it is the
    farthest. True depth is not clamped. NaN among the valid pixels of imagined depth makes both errors NaN.

    With `align`, imagined depth is first multiplied by the median of true / imagined over the valid pixels of the clip.
    """
    guess, depth = np.asarray(imagined, np.float64), np.asarray(true, np.float64)
    if guess.shape != depth.shape:
        raise ValueError(f"imagined and true depth differ in shape: {list(guess.shape)} and {list(depth.shape)}")
    if not 0 < limits[0] < limits[1] < math.inf:
        raise ValueError(f"the limits of depth must be 0 < nearest < farthest, not {limits}")
    valid = np.isfinite(depth) & (depth > 0)
    guess, depth = guess[valid], depth[valid]
    guess = np.where((guess <= 0) | np.isinf(guess), np.inf, guess)
    scale = _scale(guess, depth) if align else 1.0
    guess = (guess * scale).clip(*limits)
    ratio = np.maximum(guess / depth, depth / guess)
    broken = valid.sum() == 0 or bool(np.isnan(guess).any())
    return DepthErrors(
        abs_rel=math.nan if broken else float((np.abs(guess - depth) / depth).mean()),
        delta_1=math.nan if broken else float((ratio < RATIO).mean()),
        pixels=int(valid.sum()),
        valid_share=float(valid.mean()) if valid.size else math.nan,
        scale=scale,
    )


def chamfer(imagined: Points, true: Points) -> Chamfer:
    """Return the distances between imagined points [N, 3] and true points [M, 3], in metres.

    Nearest points are found with SciPy's k-d tree: SciPy is here anyway, the search is exact, and some ten thousand
    points take a fraction of a second. Open3D would do the same search and is a much larger package.
    """
    if not len(imagined) or not len(true):
        return Chamfer(math.nan, math.nan, math.nan, math.nan)
    to_true, _ = cKDTree(true).query(imagined)
    to_imagined, _ = cKDTree(imagined).query(true)
    accuracy, completeness = float(to_true.mean()), float(to_imagined.mean())
    return Chamfer(
        accuracy=accuracy,
        completeness=completeness,
        distance=(accuracy + completeness) / 2,
        squared=float((to_true**2).mean() + (to_imagined**2).mean()),
    )


def _scale(guess: Array, depth: Array) -> float:
    """Return the median of true / imagined over the pixels whose imagined depth is finite; 1 without one."""
    known = np.isfinite(guess)
    return float(np.median(depth[known] / guess[known])) if known.any() else 1.0


def _tensors(imagined: Pictures, true: Pictures) -> tuple[torch.Tensor, torch.Tensor]:
    """Check two stacks of pictures, uint8 [N, H, W, 3], and convert them to float64 [N, 3, H, W] from 0 to 255."""
    for pictures in (imagined, true):
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3 or not len(pictures):
            raise ValueError(f"pictures must be uint8 [N, H, W, 3], not {pictures.dtype} {list(pictures.shape)}")
    if imagined.shape != true.shape:
        raise ValueError(f"imagined and true pictures differ in shape: {list(imagined.shape)}, {list(true.shape)}")
    if min(true.shape[1:3]) < SMALLEST:
        raise ValueError(f"pictures must have at least {SMALLEST} x {SMALLEST} pixels, not {list(true.shape[1:3])}")
    first, second = (
        torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).double() for pictures in (imagined, true)
    )
    return first, second

"""The measures of imagined futures, against cases whose values are known in closed form."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.functional.image import structural_similarity_index_measure

from rl.evaluation.futures import perceptual
from rl.evaluation.futures.clips import Pictures
from rl.evaluation.futures.metrics import chamfer, depth_errors, lpips, picture_errors, psnr, ssim

LIMITS = (0.1, 10.0)
C1 = (0.01 * 255) ** 2

depths = arrays(np.float64, (4, 4), elements=st.floats(0.5, 2.0))
clouds = arrays(np.float64, st.tuples(st.integers(1, 12), st.just(3)), elements=st.floats(-1, 1))


def flat(level: int, size: int = 64, count: int = 2) -> Pictures:
    return np.full((count, size, size, 3), level, np.uint8)


def noise(seed: int, size: int = 64, count: int = 2) -> Pictures:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def grid(step: float) -> npt.NDArray[np.float32]:
    return (np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 3) * step).astype(np.float32)


@pytest.mark.parametrize("size", [64, 32])
def test_equal_pictures(size: int) -> None:
    pictures = noise(0, size)
    assert psnr(pictures, pictures).tolist() == [100, 100]
    assert ssim(pictures, pictures) == pytest.approx([1, 1])


@pytest.mark.parametrize("offset", [1, 10, 255])
def test_psnr_of_a_constant_offset(offset: int) -> None:
    assert psnr(flat(offset), flat(0)) == pytest.approx([20 * math.log10(255 / offset)] * 2, abs=1e-5)


def test_one_level_in_one_channel_of_one_pixel_is_less_than_equal() -> None:
    true = flat(7, size=226, count=1)
    imagined = true.copy()
    imagined[0, 3, 3, 0] += 1
    assert 99.9 < psnr(imagined, true)[0] < 100


def test_each_picture_has_its_own_psnr() -> None:
    assert psnr(np.concatenate([flat(0, count=1), flat(51, count=1)]), flat(0)) == pytest.approx(
        [100, 20 * math.log10(5)]
    )


@pytest.mark.parametrize("size", [64, 32])
def test_ssim_of_flat_pictures(size: int) -> None:
    expected = (2 * 100 * 150 + C1) / (100**2 + 150**2 + C1)
    assert ssim(flat(150, size), flat(100, size)) == pytest.approx([expected] * 2)


@pytest.mark.parametrize("size", [64, 32, 11])
def test_ssim_has_a_gaussian_window_of_11_pixels_and_a_mirrored_border(size: int) -> None:
    """The same by TorchMetrics, which is a hundred times slower in double precision."""
    a, b = noise(0, size), noise(1, size)
    tensors = [torch.from_numpy(pictures).permute(0, 3, 1, 2).double() for pictures in (a, b)]
    expected = structural_similarity_index_measure(*tensors, sigma=1.5, data_range=255.0, reduction="none")
    assert ssim(a, b) == pytest.approx(np.asarray(expected), rel=1e-9)


def test_pictures_that_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="at least 11 x 11"):
        ssim(flat(0, size=10), flat(0, size=10))
    with pytest.raises(ValueError, match="differ in shape"):
        psnr(flat(0), flat(0, size=32))
    with pytest.raises(ValueError, match="uint8"):
        psnr(flat(0).astype(float), flat(0))  # type: ignore[arg-type]


def test_lpips_without_its_weights_is_none_with_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda name: None)
    found = picture_errors(flat(10), flat(0))
    assert found.lpips is None
    assert "pip install" in str(found.lpips_missing)
    assert found.psnr == pytest.approx(20 * math.log10(25.5))
    monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    reason = str(lpips(flat(10), flat(0)).missing)
    assert str(tmp_path / "hub" / "checkpoints" / perceptual.ALEXNET) in reason
    assert "torchvision.models.alexnet(weights='DEFAULT')" in reason


def features(net: str, pretrained: bool) -> torch.nn.Sequential:
    """The layers of AlexNet with random weights: torchvision, which has the real ones, is no dependency."""
    assert (net, pretrained) == ("alexnet", True)
    torch.manual_seed(0)
    sizes = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
    layers: list[torch.nn.Module] = []
    for index, size in enumerate(sizes):
        layers += [torch.nn.Conv2d(*size), torch.nn.ReLU()]
        layers += [torch.nn.MaxPool2d(3, 2)] if index in (0, 1, 4) else []
    return torch.nn.Sequential(*layers)


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file in the place of the weights."""
    monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr("torchmetrics.image.lpip._TORCHVISION_AVAILABLE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = perceptual.weights_file()
    path.parent.mkdir(parents=True)
    path.touch()
    return path


@pytest.mark.parametrize("size", [64, 32])
def test_lpips_with_weights(monkeypatch: pytest.MonkeyPatch, weights: Path, size: int) -> None:
    monkeypatch.setattr("torchmetrics.functional.image.lpips._get_tv_model_features", features)
    true = noise(0, size, count=perceptual.BATCH + 1)
    equal, other = lpips(true, true), lpips(noise(1, size, count=len(true)), true)
    assert equal.missing is other.missing is None
    assert equal.distances is not None
    assert other.distances is not None
    assert equal.distances.tolist() == [0] * len(true)
    assert (other.distances > 0).all()


def test_weights_that_do_not_load_are_a_reason(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    def fail(net: str, pretrained: bool) -> None:
        raise RuntimeError("invalid header")

    monkeypatch.setattr("torchmetrics.functional.image.lpips._get_tv_model_features", fail)
    found = lpips(flat(1), flat(0))
    assert found.distances is None
    assert f"AlexNet does not load from {weights} (invalid header)" in str(found.missing)


@pytest.mark.parametrize(("factor", "within"), [(1.0, 1), (1.2, 1), (1.3, 0), (0.9, 1), (0.79, 0)])
def test_depth_that_is_wrong_by_a_factor(factor: float, within: float) -> None:
    true = np.linspace(0.5, 2, 64).reshape(1, 8, 8)
    found = depth_errors(factor * true, true, LIMITS)
    assert found.abs_rel == pytest.approx(abs(factor - 1))
    assert (found.delta_1, found.pixels, found.valid_share, found.scale) == (within, 64, 1, 1)


def test_a_constant_offset_counts_more_where_it_is_near() -> None:
    found = depth_errors([[1.5, 4.5]], [[1.0, 4.0]], LIMITS)
    assert found.abs_rel == pytest.approx((0.5 + 0.125) / 2)
    assert found.delta_1 == 0.5


@pytest.mark.parametrize("nothing", [0.0, -1.0, math.nan, math.inf])
def test_pixels_without_true_depth_do_not_count(nothing: float) -> None:
    true = np.ones((2, 4, 4))
    imagined = 1.1 * true
    true[:, :2], imagined[:, :2] = nothing, math.nan
    found = depth_errors(imagined, true, LIMITS)
    assert found.abs_rel == pytest.approx(0.1)
    assert (found.pixels, found.valid_share) == (16, 0.5)


def test_no_valid_pixel_gives_nan() -> None:
    found = depth_errors(np.ones((4, 4)), np.zeros((4, 4)), LIMITS, align=True)
    assert math.isnan(found.abs_rel)
    assert math.isnan(found.delta_1)
    assert (found.pixels, found.valid_share, found.scale) == (0, 0, 1)


@pytest.mark.parametrize(("imagined", "counts_as"), [(0.0, 4.0), (-1.0, 4.0), (math.inf, 4.0), (9.0, 4.0), (0.01, 0.5)])
def test_imagined_depth_is_clamped_and_unknown_is_far(imagined: float, counts_as: float) -> None:
    found = depth_errors([[imagined]], [[2.0]], (0.5, 4.0))
    assert found.abs_rel == abs(counts_as - 2) / 2


def test_imagined_nan_is_not_hidden() -> None:
    found = depth_errors([[1.0, math.nan]], [[1.0, 1.0]], LIMITS)
    assert math.isnan(found.abs_rel)
    assert math.isnan(found.delta_1)


def test_what_depth_errors_refuse() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        depth_errors(np.ones((2, 2)), np.ones((1, 2)), LIMITS)
    with pytest.raises(ValueError, match="limits"):
        depth_errors(np.ones((2, 2)), np.ones((2, 2)), (1.0, 1.0))


@given(imagined=depths, true=depths, unit=st.floats(0.01, 100))
def test_the_unit_of_depth_does_not_matter(
    imagined: npt.NDArray[np.float64], true: npt.NDArray[np.float64], unit: float
) -> None:
    metres = depth_errors(imagined, true, LIMITS)
    others = depth_errors(unit * imagined, unit * true, (unit * LIMITS[0], unit * LIMITS[1]))
    assert others.abs_rel == pytest.approx(metres.abs_rel)


@given(imagined=depths, true=depths, factor=st.floats(0.01, 100))
def test_alignment_takes_a_factor_away(
    imagined: npt.NDArray[np.float64], true: npt.NDArray[np.float64], factor: float
) -> None:
    plain = depth_errors(imagined, true, LIMITS, align=True)
    scaled = depth_errors(factor * imagined, true, LIMITS, align=True)
    assert scaled.abs_rel == pytest.approx(plain.abs_rel)
    assert scaled.scale * factor == pytest.approx(plain.scale)
    assert depth_errors(factor * true, true, LIMITS, align=True).abs_rel == pytest.approx(0, abs=1e-12)


def test_chamfer_of_a_grid_and_the_shifted_grid() -> None:
    found = chamfer(grid(0.1) + np.float32([0.03, 0, 0]), grid(0.1))
    assert found.accuracy == found.completeness == pytest.approx(0.03, rel=1e-5)
    assert found.distance == pytest.approx(0.03, rel=1e-5)
    assert found.squared == pytest.approx(2 * 0.03**2, rel=1e-5)


def test_what_is_missing_counts_in_one_direction() -> None:
    true = np.float32([[0, 0, 0], [1, 0, 0]])
    found = chamfer(true[:1], true)
    assert (found.accuracy, found.completeness, found.distance, found.squared) == (0, 0.5, 0.25, 0.5)


def test_chamfer_without_points_is_nan() -> None:
    assert math.isnan(chamfer(np.empty((0, 3), np.float32), grid(0.1)).distance)
    assert math.isnan(chamfer(grid(0.1), np.empty((0, 3), np.float32)).squared)


@given(a=clouds, b=clouds, seed=st.integers(0, 99))
def test_chamfer_is_symmetric_and_knows_no_order(
    a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], seed: int
) -> None:
    found, swapped = chamfer(a, b), chamfer(b, a)
    assert found.distance == pytest.approx(swapped.distance)
    assert found.squared == pytest.approx(swapped.squared)
    assert (found.accuracy, found.completeness) == (swapped.completeness, swapped.accuracy)
    order = np.random.default_rng(seed)
    assert chamfer(order.permutation(a), order.permutation(b)).distance == pytest.approx(found.distance)
    assert chamfer(a, a).distance == 0

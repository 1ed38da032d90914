"""A checkpoint that does not fit is told by the names of its tensors, and by the layout that fits better."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from policies.backbones.published.files import open_checkpoint
from policies.backbones.published.fit import compare, fit_of, require_fit, require_layout
from policies.backbones.published.layout import LAYOUTS, Shapes, wanted_tensors

PATH = Path("weights.pt")


def shapes(**of: tuple[int, ...]) -> Shapes:
    return of


WANTED = shapes(a=(2, 3), b=(4,), c=(1,))


def test_a_checkpoint_that_fits() -> None:
    fit = compare(WANTED, shapes(a=(2, 3), b=(4,), c=(1,)))
    assert fit.fits
    assert str(fit) == "all 3 tensors are there"


def test_every_difference_is_named() -> None:
    fit = compare(WANTED, shapes(a=(3, 2), b=(4,), d=(1,), e=(1,)))
    assert str(fit) == "1 missing (c); 2 surplus (d, e); 1 misshapen (a [3, 2] instead of [2, 3])"


def test_long_lists_are_cut() -> None:
    assert str(compare(shapes(**{f"t{i}": (1,) for i in range(9)}), {})) == "9 missing (t0, t1, t2 and 6 more)"


def test_parts_that_a_layout_does_not_read_are_no_surplus() -> None:
    found = WANTED | shapes(**{"vae.weight": (5,)})
    assert not compare(WANTED, found).fits
    assert compare(WANTED, found, ignored=("vae.",)).fits


@pytest.mark.parametrize(
    ("other", "advice"),
    [
        (shapes(a=(2, 3)), "It is a checkpoint of other: use wam.backbone=other."),
        (shapes(a=(2, 3), f=(1,)), "It is more like other, which it does not fit either: 1 missing (f)."),
        (shapes(x=(1,), y=(1,), z=(1,)), "No known layout fits better."),
    ],
)
def test_the_layout_that_fits_better_is_named(other: Shapes, advice: str) -> None:
    found = shapes(a=(2, 3))
    with pytest.raises(ValueError, match=r"wam\.checkpoint='weights\.pt': it does not fit own") as caught:
        require_fit("own", PATH, {"own": lambda: compare(WANTED, found), "other": lambda: compare(other, found)})
    assert str(caught.value).endswith(advice)


def test_other_layouts_are_not_built_if_it_fits() -> None:
    def never() -> None:
        raise AssertionError

    require_fit("own", PATH, {"own": lambda: compare(WANTED, WANTED), "other": never})  # type: ignore[dict-item]


def test_a_file_of_another_variant_is_told_by_its_name(tmp_path: Path) -> None:
    three_cameras, libero = LAYOUTS.get("fastwam-idm"), LAYOUTS.get("fastwam-libero-optional-idm")
    tensors = {name: torch.zeros(shape) for name, shape in wanted_tensors(libero, libero.sizes["tiny"]).items()}
    save_file(tensors, tmp_path / "libero.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert fit_of(libero, "tiny", checkpoint).fits
    with pytest.raises(ValueError, match=r"fit fastwam-idm: .* misshapen .* use wam\.backbone=fastwam-libero"):
        require_layout(three_cameras, "tiny", checkpoint)


def test_a_file_of_another_size_names_the_shapes(tmp_path: Path) -> None:
    layout = LAYOUTS.get("fastwam-idm")
    tensors = {name: torch.zeros(shape) for name, shape in wanted_tensors(layout, layout.sizes["tiny"]).items()}
    save_file(tensors, tmp_path / "tiny.safetensors")
    with pytest.raises(ValueError, match=r"missing .* misshapen \(.* instead of \[.*No known layout fits better"):
        require_layout(layout, "full", open_checkpoint(tmp_path))

"""A checkpoint that does not fit is told by the names of its tensors, and by the layout that fits better."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from policies.backbones.published.fit import compare, require_fit

PATH = Path("weights.pt")


def shapes(**of: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in of.items()}


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
    found = WANTED | {"vae.weight": torch.empty(5, device="meta")}
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
def test_the_layout_that_fits_better_is_named(other: dict[str, torch.Tensor], advice: str) -> None:
    found = shapes(a=(2, 3))
    with pytest.raises(ValueError, match=r"wam\.checkpoint='weights\.pt': it does not fit own") as caught:
        require_fit("own", PATH, {"own": lambda: compare(WANTED, found), "other": lambda: compare(other, found)})
    assert str(caught.value).endswith(advice)


def test_other_layouts_are_not_built_if_it_fits() -> None:
    def never() -> None:
        raise AssertionError

    require_fit("own", PATH, {"own": lambda: compare(WANTED, WANTED), "other": never})  # type: ignore[dict-item]

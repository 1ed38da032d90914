"""UniPC on a flow whose path is known, and where it may be used."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from policies.backbones.door import Point
from policies.backbones.flow import shifted_grid
from policies.catalogue import build_schedule
from policies.solvers import Solver, UniPC, euler
from policies.walk import walk
from tests.policies.small_xwam import small_xwam
from tests.policies.test_xwam import context_of

MEAN, SPREAD = 0.7, 1.0  # as of normalised data


def exact_flow(x: Tensor, sigma: Tensor) -> Tensor:
    """Return the velocity of data that are normal with MEAN and SPREAD: E[eps - x0 | x]."""
    variance = ((1 - sigma) * SPREAD) ** 2 + sigma**2
    away = x - (1 - sigma) * MEAN
    return sigma / variance * away - (MEAN + (1 - sigma) * SPREAD**2 / variance * away)


def final_error(solver: Solver, steps: int) -> float:
    """Return how far the end of the walk is from the end of the exact path, which keeps every quantile."""
    grid = shifted_grid(steps, 5.0)
    start = torch.linspace(-2, 2, 9).reshape(1, 1, 1, 3, 3)
    x = torch.cat([torch.zeros(1, 1, 1, 3, 3), start], dim=2)
    point = Point(x, start.reshape(1, 9, 1), torch.ones(1, 1), torch.ones(1))
    for level in grid[1:]:
        flows = exact_flow(point.x, point.sigma_video[0, 0]), exact_flow(point.actions, point.sigma_action[0])
        point = solver(point, *flows, level.expand(1, 1), level.expand(1), 1)
    exact = MEAN + SPREAD * start
    assert not point.x[:, :, 0].any()
    torch.testing.assert_close(point.x[:, :, 1].flatten(), point.actions.flatten(), atol=1e-5, rtol=0)
    return float((point.x[:, :, 1:] - exact).abs().max())


@pytest.mark.parametrize("steps", [10, 20])
def test_unipc_is_nearer_to_the_exact_path_than_euler(steps: int) -> None:
    grid = shifted_grid(steps, 5.0)
    assert final_error(UniPC(grid, grid), steps) < 0.7 * final_error(euler, steps)


@pytest.mark.parametrize("name", ["sync-5", "async-4-12"])
def test_a_schedule_may_name_it(name: str) -> None:
    wam = small_xwam()
    context = context_of(wam)
    walks = [walk(wam, context, build_schedule(one, wam.spec), [1, 2, 3]) for one in (name, f"{name}-unipc")]
    assert walks[0].forwards.tolist() == walks[1].forwards.tolist()
    assert not torch.equal(walks[0].end.actions, walks[1].end.actions)
    alone = walk(wam, context.select(torch.tensor([1])), build_schedule(f"{name}-unipc", wam.spec), [2])
    torch.testing.assert_close(alone.end.actions[0], walks[1].end.actions[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["sants-unipc", "noisegate-unipc", "fixed-5-unipc", "sync-5-unipc-then-sync-5"])
def test_schedules_that_decide_refuse_it(name: str) -> None:
    with pytest.raises(ValueError, match=name.partition("-then")[0]):
        build_schedule(name, small_xwam().spec)

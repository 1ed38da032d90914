"""The value expert of the tiny backbone: independent values, frozen video, its file, and what it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.planning import PlanConfig
from configs.value import ValueExpertConfig
from policies.backbones.tiny.model import FrozenContext, FrozenWorldActionModel
from policies.backbones.tiny.value import (
    NOISES_TOGETHER,
    ValueDimensions,
    ValueExpert,
    describe_value,
    load_value,
    save_value,
)
from policies.catalogue import build_schedule
from policies.walk import walk
from tests.policies.points import point_at
from tests.policies.small_wam import small_config, small_wam

HASH = "0" * 16
VIDEO = small_config().video
DIMENSIONS = ValueDimensions(VIDEO.layers, VIDEO.heads, VIDEO.head_dim)


def small_expert(horizon: int = 2) -> ValueExpert:
    torch.manual_seed(1)
    return ValueExpert(ValueExpertConfig(hidden=32, ffn_dim=64, horizon=horizon, steps=4), DIMENSIONS)


def valued(expert: ValueExpert) -> FrozenWorldActionModel:
    wam = small_wam()
    wam.value = expert
    wam.spec = replace(wam.spec, value=expert.spec)
    return wam


def context_of(wam: FrozenWorldActionModel, rows: int) -> FrozenContext:
    generator = torch.Generator().manual_seed(0)
    spec = wam.spec
    observed = torch.randn(rows, spec.latent_channels, 1, *spec.latent_grid, generator=generator)
    return wam.observe_latents(observed, torch.zeros(rows, spec.action_dim), ["lift the pot"] * rows)


def test_value_noises_do_not_know_each_other_nor_their_batch() -> None:
    wam = valued(small_expert())
    context = context_of(wam, 3)
    x, _ = wam.initial_noise(context, [1, 2, 3])
    point = point_at(wam.spec, torch.tensor([1.0, 0.7, 0.2]), x)
    noises = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(5))
    together = wam.score(context, point, noises)
    assert together.shape == (3, 4, 2)
    row = torch.tensor([1])
    alone = wam.score(context.select(row), point.select(row), noises[1:2, 2:3])
    torch.testing.assert_close(alone[0, 0], together[1, 2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(wam.score(context, point, noises.flip(1)), together.flip(1), atol=1e-5, rtol=1e-5)


def test_any_number_of_value_noises_takes_a_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    wam = valued(small_expert())
    context = context_of(wam, 2)
    x, _ = wam.initial_noise(context, [1, 2])
    point, noises = point_at(wam.spec, torch.tensor([1.0, 0.5]), x), torch.randn(2, 3 * NOISES_TOGETHER + 1, 2)
    sizes, run = [], ValueExpert.forward

    def counted(self: ValueExpert, noisy: torch.Tensor, *others: Any) -> torch.Tensor:
        sizes.append(noisy.shape[1])
        return run(self, noisy, *others)

    monkeypatch.setattr(ValueExpert, "forward", counted)
    returns = wam.score(context, point, noises)
    assert max(sizes) == NOISES_TOGETHER
    torch.testing.assert_close(returns[:, -1:], wam.score(context, point, noises[:, -1:]), atol=1e-5, rtol=1e-5)


def test_the_loss_moves_the_value_expert_alone() -> None:
    """The video stays as it was, and a step of the action's training leaves the value expert as it was."""
    expert = small_expert().requires_grad_(True)
    wam = small_wam()
    wam.model.requires_grad_(True)
    context = context_of(wam, 2)
    x, actions = wam.initial_noise(context, [1, 2])
    memory = wam.value_memory(context, point_at(wam.spec, torch.ones(2), x))
    expert.loss(memory, torch.randn(2, 2), torch.Generator().manual_seed(0)).backward()
    assert all(parameter.grad is None for parameter in wam.model.parameters())
    assert any(parameter.grad is not None for parameter in expert.parameters())
    expert.zero_grad(set_to_none=True)
    read = wam.model.action_memory(x, torch.ones(2, wam.spec.future_frames))
    wam.model.action(actions, torch.ones(2), context.joints, read).square().mean().backward()
    assert all(parameter.grad is None for parameter in expert.parameters())


def test_it_learns_a_return_that_the_noise_decides_and_planning_raises_it() -> None:
    """The true return is the mean of a channel of the initial noise. Planning must prefer noise in which it is high."""
    wam = small_wam()
    expert = small_expert(horizon=1)
    context = context_of(wam, 1)

    def true(x: Tensor) -> Tensor:
        return x[:, :4, 1:].mean(dim=(1, 2, 3, 4))[:, None] * 10

    x, _ = wam.initial_noise(context.select(torch.zeros(256, dtype=torch.int64)), range(256))
    own = context.select(torch.zeros(len(x), dtype=torch.int64))
    with torch.no_grad():
        memory = wam.value_memory(own, point_at(wam.spec, torch.ones(len(x)), x))
    expert.normalise_by(true(x))
    optimizer = torch.optim.Adam(expert.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = expert.loss(memory, true(x), generator)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    wam.value = expert.eval().requires_grad_(False)
    wam.spec = replace(wam.spec, value=expert.spec)
    plan = PlanConfig(rounds=2, videos=16, values=4, score="mean", final="best")
    seeds = [1001, 1002, 1003, 1004]
    rows = context.select(torch.zeros(len(seeds), dtype=torch.int64))
    planned = walk(wam, rows, build_schedule("fixed-1+plan", wam.spec, plan=plan), seeds)
    starts = torch.stack([torch.from_numpy(record.plan.start) for record in planned.records if record.plan])
    plain, _ = wam.initial_noise(rows, seeds)
    assert true(starts).mean() > true(plain).mean() + 0.3


def test_a_file_holds_it_and_belongs_to_one_backbone(tmp_path: Path) -> None:
    path, expert = tmp_path / "value.safetensors", small_expert()
    expert.normalise_by(torch.tensor([[1.0, -3.0], [2.0, 5.0]]))
    save_value(path, expert, HASH)
    spec = describe_value(path, HASH)
    assert (spec.noise_dim, spec.horizon, spec.lowest) == (2, 2, -3.0)
    assert len(spec.weights_hash) == 16
    again = load_value(path, HASH)
    assert all(
        torch.equal(one, other)
        for one, other in zip(again.state_dict().values(), expert.state_dict().values(), strict=True)
    )
    with pytest.raises(ValueError, match=r"value\.safetensors': this value expert was trained on backbone 0000"):
        load_value(path, "another")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"value\.safetensors': damaged"):
        describe_value(path, HASH)
    with pytest.raises(ValueError, match="missing"):
        load_value(tmp_path / "none.safetensors", HASH)

"""The mixture with a value expert: the numbers of the authors' code, who reads whom, and planners in front of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.planning import PlanConfig
from configs.schema import WAMConfig
from configs.stored import DamagedFile
from policies.backbones import describe, examine, load_wam
from policies.backbones.arms import Arms
from policies.backbones.door import Observation
from policies.backbones.published.action_spaces import SPACES, AbsoluteJoints
from policies.backbones.published.layout import LAYOUTS
from policies.backbones.published.value_frozen import FrozenValueMixture, ValueMixtureContext
from policies.backbones.published.value_mixture import ValueMixtureModel
from policies.catalogue import build_schedule
from policies.walk import replay, walk
from tests.policies.published.mixture_golden import Inputs
from tests.policies.published.small_mixture import (
    INSTRUCTIONS,
    networks,
    observations,
    write_value_mixture,
)
from tests.policies.published.value_golden import CASES, KEY, answers, value_tokens
from tests.policies.xwam_golden import sample

GOLDEN = json.loads(Path(__file__).with_name("wav_golden.json").read_text())
TOLERANCE = 1e-4
SEEDS = [1, 2]
PLAN = PlanConfig(rounds=2, videos=3, values=1, depth=2, steps=2, score="mean")


class Unified(AbsoluteJoints):
    """A space for tests: the robot's joints fill the first numbers of a state, and are read off those of an action."""

    def states(self, joints: Tensor, arms: Arms | None = None) -> Tensor:
        return torch.nn.functional.pad(joints, (0, 80 - joints.shape[1]))

    def targets(self, actions: Tensor, joints: Tensor, arms: Arms | None = None) -> Tensor:
        return actions[..., : joints.shape[1]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> WAMConfig:
    return write_value_mixture(tmp_path_factory.mktemp("wav"), LAYOUTS.get(KEY))


@pytest.fixture(scope="module")
def wam(written: WAMConfig) -> FrozenValueMixture:
    loaded = cast(FrozenValueMixture, load_wam(written))
    loaded.space = Unified()
    return loaded


def model() -> ValueMixtureModel:
    """The networks, which read every word here: the authors' were asked without a mask of the text."""
    found = cast(ValueMixtureModel, networks(LAYOUTS.get(KEY))).eval()
    found.reads_padding = True
    return found


@pytest.mark.parametrize("case", CASES)
def test_our_networks_give_the_numbers_of_the_authors(case: str) -> None:
    with torch.no_grad():
        found = answers(model(), Inputs.of(KEY), case)
    for part, values in found.items():
        golden = torch.tensor(GOLDEN[f"{KEY}/{case}/{part}"])
        torch.testing.assert_close(sample(values), golden, rtol=TOLERANCE, atol=TOLERANCE, msg=f"{case}: {part}")


def test_values_never_read_actions_in_the_first_layer_and_the_video_reads_both() -> None:
    """With one layer left, a change of the actions moves video and actions; one of the values moves everything."""
    one_layer = model()
    for expert in (one_layer.video, one_layer.value, one_layer.action):
        expert.blocks = expert.blocks[:1]
    inputs, levels = Inputs.of(KEY), torch.full((2,), 0.5)
    texts = one_layer.texts(one_layer.words(inputs.text, inputs.states))
    values = value_tokens(inputs.actions.shape[1])

    def run(values: Tensor, actions: Tensor) -> Any:
        with torch.no_grad():
            return one_layer.denoise(inputs.x, torch.full((2, 2), 0.5), values, levels, actions, levels, texts)

    before = run(values, inputs.actions)
    other_actions, other_values = run(values, inputs.actions + 1), run(values + 1, inputs.actions)
    assert torch.equal(before.value_flow, other_actions.value_flow)
    for part in ("video_flow", "action_flow"):
        assert not torch.allclose(getattr(before, part), getattr(other_actions, part), atol=1e-4)
        assert not torch.allclose(getattr(before, part), getattr(other_values, part), atol=1e-4)
    assert not torch.allclose(before.video_flow[:, :, :1], other_values.video_flow[:, :, :1], atol=1e-4)


def test_a_description_is_the_one_of_the_loaded_backbone(written: WAMConfig, wam: FrozenValueMixture) -> None:
    spec = describe(written)
    assert spec == wam.spec
    assert spec.value is not None
    assert (spec.value.noise_dim, spec.value.horizon, spec.value.lowest) == (8, 8, -100.0)
    assert spec.action_reads_values
    assert examine(written) == (spec, [])
    assert spec.acts_on == "nothing here"
    with pytest.raises(ValueError, match=r"poses of two tools"):
        SPACES[LAYOUTS.get(KEY).numbers.space].states(torch.zeros(1, 14))


def test_returns_that_cannot_be_read_are_named(written: WAMConfig, tmp_path: Path) -> None:
    folder = Path(written.checkpoint)
    path = folder / "value_normalization_stats.json"
    content = path.read_text()
    try:
        path.write_text(json.dumps({"mean": [0.0], "std": [0.0]}))
        assert any("value_normalization_stats.json" in text for text in examine(written)[1])
        with pytest.raises(DamagedFile, match="not above 0"):
            load_wam(written)
    finally:
        path.write_text(content)


@pytest.mark.filterwarnings("ignore:schedule .* gives the future frames:RuntimeWarning")
@pytest.mark.parametrize("name", ["joint-3", "joint-3+plan", "joint-3+best-of-2", "async-2-3+plan"])
def test_joint_schedules_and_planners_walk_on_it(wam: FrozenValueMixture, name: str) -> None:
    context = wam.observe(observations(), INSTRUCTIONS)
    assert isinstance(context, ValueMixtureContext)
    schedule = build_schedule(name, wam.spec, plan=PLAN)
    batch = walk(wam, context, schedule, SEEDS)
    assert batch.actions.shape == (2, 8, 14)
    for row, seed in enumerate(SEEDS):
        alone = walk(wam, context.select(torch.tensor([row])), schedule, [seed])
        np.testing.assert_allclose(alone.actions[0], batch.actions[row], atol=1e-4)
    np.testing.assert_allclose(replay(wam, context, batch.records).actions, batch.actions, atol=1e-4)
    each = {record.plan.forwards for record in batch.records if record.plan}
    rounds = 1 if "best-of" in name else PLAN.rounds
    videos = 2 if "best-of" in name else PLAN.videos
    assert each == ({rounds * videos * (1 + 10)} if "+" in name else set())


def test_a_walk_starts_from_the_value_noise_of_its_row_or_of_the_planner(wam: FrozenValueMixture) -> None:
    context = wam.observe(observations(), INSTRUCTIONS)
    noise = wam.initial_noise(context, SEEDS)
    schedule = build_schedule("joint-3", wam.spec)
    own = walk(wam, context, schedule, SEEDS).actions
    other = walk(wam, context, schedule, SEEDS, noise=noise, value_noise=torch.zeros(2, 8)).actions
    assert np.abs(own - other).max() > 1e-4
    assert noise[1].shape == (2, 9, 80)


def test_numbers_that_were_never_trained_go_straight_to_zero(wam: FrozenValueMixture) -> None:
    context = wam.observe(observations(), INSTRUCTIONS)
    end = walk(wam, context, build_schedule("joint-3", wam.spec), SEEDS).end.actions[:, :8]
    active = list(LAYOUTS.get(KEY).active_actions)
    still = [number for number in range(80) if number not in active]
    assert end[..., still].abs().max() < 1e-5
    assert (end[..., active].abs().amax(dim=(0, 1)) > 1e-3).all()


def test_cascades_are_refused(wam: FrozenValueMixture) -> None:
    with pytest.raises(ValueError, match=r"the video of backbone .* reads the action"):
        build_schedule("fixed-1", wam.spec).check(wam.spec)
    with pytest.raises(ValueError, match="has no value expert"):
        without = replace(wam.spec, value=None)
        build_schedule("joint-3+plan", without).check(without)


def test_the_observation_may_have_any_pictures(wam: FrozenValueMixture) -> None:
    one: Observation = observations(1)[0]
    assert wam.observe([one], INSTRUCTIONS[:1]).observed.shape[2] == 1

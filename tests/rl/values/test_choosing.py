"""What is measured of a planner is what the planner does, also where the video reads values."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from configs.planning import PlanConfig
from policies.backbones import load_wam
from policies.backbones.published.layout import LAYOUTS
from policies.backbones.published.value_frozen import FrozenValueMixture, ValueMixtureContext
from policies.catalogue import build_schedule
from policies.walk import walk
from rl.values.choosing import scores_by_round
from rl.values.ranking import score_noises
from tests.policies.published.small_mixture import INSTRUCTIONS, observations, write_value_mixture
from tests.policies.published.test_value_mixture import Unified
from tests.policies.published.value_golden import KEY

SEEDS = [1, 2]
PLAN = PlanConfig(rounds=2, videos=3, values=2, depth=2, steps=2, score="mean", video_score="mean")


@pytest.fixture(scope="module")
def wam(tmp_path_factory: pytest.TempPathFactory) -> FrozenValueMixture:
    loaded = cast(FrozenValueMixture, load_wam(write_value_mixture(tmp_path_factory.mktemp("wav"), LAYOUTS.get(KEY))))
    loaded.space = Unified()
    return loaded


@pytest.fixture(scope="module")
def context(wam: FrozenValueMixture) -> ValueMixtureContext:
    return cast(ValueMixtureContext, wam.observe(observations(2), list(INSTRUCTIONS)))


def planned_scores(wam: FrozenValueMixture, context: ValueMixtureContext) -> np.ndarray:
    """The scores [B, K, M] of the candidates of a planner in front of a walk."""
    records = walk(wam, context, build_schedule("joint-3+plan", wam.spec, plan=PLAN), SEEDS).records
    return np.stack([record.plan.scores for record in records if record.plan])


def test_the_scores_by_round_are_those_of_the_planner(wam: FrozenValueMixture, context: ValueMixtureContext) -> None:
    scores, found = planned_scores(wam, context), scores_by_round(wam, context, SEEDS, PLAN)
    np.testing.assert_allclose(found.mean, scores.mean(axis=(0, 2)), rtol=1e-4)
    np.testing.assert_allclose(found.best, scores.max(axis=2).mean(axis=0), rtol=1e-4)


def test_a_noise_is_rated_as_the_planner_rates_its_first_candidate(
    wam: FrozenValueMixture, context: ValueMixtureContext
) -> None:
    found = score_noises(wam, context, [[seed, seed + 7] for seed in SEEDS], PLAN)
    assert found.shape == (2, 2)
    np.testing.assert_allclose(found[:, 0], planned_scores(wam, context)[:, 0, 0], rtol=1e-4)

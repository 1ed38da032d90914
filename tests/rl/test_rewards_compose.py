"""Rewards are added up, and only those go together that the collector gets ready."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Config, RewardConfig, SegmentsConfig
from rl.experience.rollouts import Rollouts
from rl.method import choose, method_problems, needs_of, new_section
from rl.objectives.path_ppo import PathPPOConfig
from rl.reward import Need, Rewards
from rl.rewards.cost import CostConfig
from rl.rewards.path import Calibration, PathConfig, PathReward
from tests.analytic import SPEC

UNIT = Calibration(0.05, 0.05, 1.0, 1.0)
counts = st.lists(st.integers(1, 30), min_size=1, max_size=6)


def episodes(success: list[float], updates: list[float], forwards: list[float]) -> Rollouts:
    rollouts = Rollouts.empty([str(row) for row in range(len(success))], [0] * len(success), "success")
    rollouts.success, rollouts.updates, rollouts.forwards = (
        np.array(values, dtype=np.float64) for values in (success, updates, forwards)
    )
    rollouts.errors = np.linspace(0.5, 2.5, 2 * len(success)).reshape(-1, 2)
    rollouts.anchors = np.tile([2.0, 2.2, 1.0, 0.9], (len(success), 1))
    return rollouts


def price(weight: float) -> CostConfig:
    """What every single forward costs, from the first iteration on."""
    return CostConfig(weight=weight, counts="forwards", divided_by=1, ramp_fraction=0.0)


def rewards_of(**settings: RewardConfig) -> Rewards:
    rewards = Rewards(settings, SPEC)
    for term in rewards.terms.values():
        if isinstance(term, PathReward):
            term.calibration = UNIT
    return rewards


@given(counts, st.floats(0, 1), st.floats(-2, 2), st.floats(0, 2), st.floats(0, 2))
def test_the_return_is_the_sum_of_the_terms(
    forwards: list[int], progress: float, path: float, cost: float, success: float
) -> None:
    rollouts = episodes([1.0] * len(forwards), [2.0] * len(forwards), [float(count) for count in forwards])
    settings: dict[str, RewardConfig] = {
        "path": PathConfig(weight=path),
        "cost": CostConfig(weight=cost),
        "success": RewardConfig(weight=success),
    }
    alone = [rewards_of(**{name: own}).score(rollouts, progress) for name, own in settings.items()]
    together = rewards_of(**settings).score(rollouts, progress)
    np.testing.assert_allclose(together.total, sum(scores.total for scores in alone))
    np.testing.assert_array_equal(together.parts["reward/return"], together.total)
    for scores in alone:
        for name in scores.parts.keys() - {"reward/return"}:
            np.testing.assert_array_equal(together.parts[name], scores.parts[name])
    assert together.means(np.ones(len(together.total))) == {
        name: pytest.approx(values.mean()) for name, values in together.parts.items()
    }


@given(counts)
def test_a_weight_scales_its_term_and_not_what_is_shown_of_it(forwards: list[int]) -> None:
    rollouts = episodes([1.0] * len(forwards), [1.0] * len(forwards), [1.0] * len(forwards))
    for name, settings in (("path", PathConfig), ("success", RewardConfig)):
        once, twice = (rewards_of(**{name: settings(weight=weight)}).score(rollouts, 1.0) for weight in (1.0, 2.0))
        np.testing.assert_allclose(twice.total, 2 * once.total)
        for part in once.parts.keys() - {"reward/return"}:
            np.testing.assert_array_equal(twice.parts[part], once.parts[part])


def test_success_minus_the_price_of_every_forward() -> None:
    """The same from the first iteration to the last; updates do not count."""
    rewards = rewards_of(success=RewardConfig(), cost=price(0.02))
    rollouts = episodes([1, 0, 1], updates=[99, 99, 99], forwards=[1, 25, 5.5])
    for progress in (0.0, 0.5, 1.0):
        scores = rewards.score(rollouts, progress)
        np.testing.assert_allclose(scores.total, rollouts.success - 0.02 * rollouts.forwards)
        np.testing.assert_allclose(scores.total, [0.98, -0.5, 0.89])
        np.testing.assert_allclose(scores.parts["reward/cost"], [0.02, 0.5, 0.11])
        np.testing.assert_array_equal(scores.parts["reward/success"], rollouts.success)


def test_by_default_the_cost_is_the_share_of_the_full_walks_updates() -> None:
    rollouts = episodes([1], updates=[5], forwards=[99])
    (total,) = rewards_of(cost=CostConfig(weight=0.3)).score(rollouts, progress=1.0).total
    assert total == pytest.approx(-0.3 * 5 / SPEC.reference_updates)


def test_needs_are_those_of_all_terms() -> None:
    assert needs_of(Config(reward={"cost": price(1)})) == frozenset()
    assert needs_of(choose("sants", "groups")) == {Need.SIMULATORS}
    assert needs_of(choose("sants", "segments")) == {Need.DEMONSTRATIONS, Need.ANCHORS}
    rewards = rewards_of(path=PathConfig(), cost=price(1))
    assert rewards.anchored is rewards.terms["path"]
    assert rewards_of(success=RewardConfig()).anchored is None


def test_what_a_reward_remembers_comes_back_and_another_ones_is_left_out() -> None:
    state = rewards_of(path=PathConfig(), cost=price(1)).state()
    assert state["path"] == {"calibration": vars(UNIT)}
    fresh = Rewards({"path": PathConfig()}, SPEC)
    fresh.restore(state)
    assert isinstance(fresh.terms["path"], PathReward)
    assert fresh.terms["path"].calibration == UNIT
    assert fresh.terms["path"].calibration_segments == 0


def test_without_terms_every_return_is_nothing() -> None:
    """Also shown as such. No run is started so: its recipe is refused."""
    scores = Rewards({}, SPEC).score(episodes([1, 0], [1, 1], [1, 1]), progress=1.0)
    assert scores.total.tolist() == [0, 0]
    assert scores.parts.keys() == {"reward/return"}


def test_an_unknown_reward_is_refused_naming_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown reward 'luck': use one of cost, path, success"):
        Rewards({"luck": RewardConfig()}, SPEC)


# What the choices of a run must agree on.


def problems(config: Config) -> list[str]:
    return [str(problem) for problem in method_problems(config)]


@pytest.mark.parametrize("schedule", ["sants", "stop-only", "jump-only", "noisegate"])
@pytest.mark.parametrize("collector", ["segments", "groups"])
def test_every_schedule_goes_with_every_collector(schedule: str, collector: str) -> None:
    assert problems(choose(schedule, collector)) == []


def test_a_cost_goes_with_every_collector() -> None:
    assert problems(choose("sants", "groups", rewards=["success", "cost"])) == []
    assert problems(choose("noisegate", "segments", rewards=["path", "cost"])) == []
    assert problems(choose("noisegate", "segments", rewards=["cost"])) == []


@pytest.mark.parametrize(
    ("collector", "reward", "lacking"),
    [("groups", "path", "anchors, demonstrations"), ("segments", "success", "simulators")],
)
def test_a_reward_that_the_collector_does_not_get_ready_is_refused_in_one_sentence(
    collector: str, reward: str, lacking: str
) -> None:
    config = choose("sants", collector)
    config.reward[reward] = new_section("reward", reward)
    assert problems(config) == [
        f"reward.{reward}: needs {lacking}, which {collector} do not offer. "
        f"Use it with another collector, or leave it out: reward.{reward}=null."
    ]


def test_a_run_without_a_reward_is_refused() -> None:
    config = choose()
    config.reward = {}
    assert problems(config) == ["reward: is empty. Name at least one of cost, path, success."]


def test_paths_that_fill_no_minibatch_are_refused() -> None:
    config = choose()
    config.objective, config.collector = PathPPOConfig(minibatch_paths=48), SegmentsConfig(paths_per_iteration=64)
    (problem,) = problems(config)
    assert problem.startswith("objective.minibatch_paths: 48 does not divide collector.paths_per_iteration=64. Use a")


@pytest.mark.parametrize("objective", ["path_ppo", "grpo"])
def test_paths_of_a_segment_that_has_only_one_are_not_compared(objective: str) -> None:
    """Every advantage would be 0, and nothing would be learned."""
    config = choose("sants", "segments", objective)
    config.collector = SegmentsConfig(paths_per_segment=1)
    if isinstance(config.objective, PathPPOConfig):
        assert problems(config) == []
        config.objective.baseline = "others"
    (problem,) = problems(config)
    assert problem.startswith("objective.baseline: ")
    assert "collector.paths_per_segment=1 walks only one. Use collector.paths_per_segment=4" in problem
    config.collector.paths_per_segment = 4
    assert problems(config) == []


def test_a_row_of_the_comparison_that_no_schedule_has_the_name_of_is_refused() -> None:
    config = choose()
    config.evaluation.schedules = ["fixed-5", "fixed-many"]
    (problem,) = problems(config)
    assert problem.startswith("evaluation.schedules: 'fixed-many' is no schedule")
    config.evaluation.trained = {"fixed-many": "runs/many"}
    assert problems(config) == []


def test_unknown_choices_are_refused_naming_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown collector 'pages': use one of groups, segments"):
        choose(collector="pages")
    with pytest.raises(ValueError, match="unknown objective 'luck': use one of grpo, path_ppo"):
        choose(objective="luck")
    with pytest.raises(ValueError, match="'fixed' is no schedule that learns: use one of"):
        choose(schedule="fixed")


def test_the_cost_of_a_walk_may_be_charged_to_the_decisions_of_its_own_query() -> None:
    rollouts = episodes([1.0, 0.0], [2.0, 1.0], [3.0, 2.0])
    rollouts.walks = [np.array([[3, 4], [1, 2]]), np.array([[1, 2]])]
    rollouts.queries = np.array([0, 1, 0])
    settings = price(0.1)
    whole = rewards_of(success=RewardConfig(), cost=settings).score(rollouts, progress=1.0)
    np.testing.assert_allclose(whole.credit, [[0.7, 0.7], [-0.2, -0.2]])
    settings.charged = "query"
    charged = rewards_of(success=RewardConfig(), cost=settings).score(rollouts, progress=1.0)
    np.testing.assert_allclose(charged.credit, [[0.6, 0.8], [-0.2, 0.0]])
    np.testing.assert_allclose(charged.total, whole.total)


def test_one_ratio_for_a_whole_episode_cannot_charge_its_queries() -> None:
    config = choose("sants", "groups", rewards=["success", "cost"])
    config.reward["cost"].charged = "query"
    assert list(method_problems(config)) == []
    config.objective.ratio = "path"
    (problem,) = method_problems(config)
    assert problem.key == "reward.cost.charged"

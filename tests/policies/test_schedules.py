"""Schedules: the mathematics of the SANTS heads, grids, names."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Beta

import policies.schedules
from configs.fields import section_problems
from policies.backbones.flow import next_on_grid, shifted_grid
from policies.catalogue import SCHEDULES, build_schedule, find_schedule, learned_kind
from policies.grids import GridSchedule, JointSettings, QuerySchedule
from policies.hazard import stop_probability
from policies.schedule import Decision
from policies.schedules.sants import (
    SantsCourse,
    SantsOutput,
    SantsPolicy,
    SantsSchedule,
    SantsSettings,
    SantsTrace,
    beta_of_mode,
    log_prob,
    reference_mode,
)
from policies.streams import uniform_streams
from tests.analytic import SPEC
from tests.policies.points import point_at, start_of


def untrained(settings: SantsSettings) -> SantsPolicy:
    return SantsPolicy(**SantsPolicy.dimensions_of(SPEC), settings=settings)


def started(schedule: SantsSchedule, seeds: Sequence[int], deterministic: bool) -> SantsCourse:
    course = schedule.start(start_of(SPEC, seeds, deterministic))
    assert isinstance(course, SantsCourse)
    return course


def decided(course: SantsCourse, sigma: torch.Tensor, updates: int) -> tuple[Decision, SantsTrace]:
    """What it decides for rows at levels [b] whose features are all 0."""
    pooled = torch.zeros(len(sigma), SPEC.feature_dim)
    decision = course.decide(torch.arange(len(sigma)), point_at(SPEC, sigma), pooled, updates)
    assert isinstance(decision.trace, SantsTrace)
    return decision, decision.trace


modes = st.floats(0.02, 0.98)
concentrations = st.floats(2.01, 200.0)
hazards = st.lists(st.floats(0.0, 8.0), min_size=1, max_size=25)


@given(hazards)
def test_cumulative_stop_probability_is_the_product_of_conditional_ones(increments: list[float]) -> None:
    hazard = torch.tensor(increments, dtype=torch.float64)
    survived = torch.cumprod(1 - stop_probability(hazard), 0)
    torch.testing.assert_close(1 - survived, 1 - torch.exp(-hazard.cumsum(0)))


@given(modes, concentrations)
def test_jump_has_the_mode_it_is_given(mode: float, concentration: float) -> None:
    jump = beta_of_mode(torch.tensor(mode), torch.tensor(concentration))
    a, b = float(jump.concentration1), float(jump.concentration0)
    assert a > 1
    assert b > 1
    assert (a - 1) / (a + b - 2) == pytest.approx(mode, abs=1e-5)


@given(modes, concentrations, st.floats(0.001, 0.999), st.floats(0.001, 5.0), st.booleans())
def test_log_prob_is_that_of_torch_distributions(
    mode: float, concentration: float, ratio: float, hazard: float, stops: bool
) -> None:
    output = SantsOutput(torch.tensor(hazard), torch.tensor(mode), torch.tensor(concentration))
    stop, free = torch.tensor(stops), torch.tensor(True)
    stop_log_prob, jump_log_prob = log_prob(output, stop, torch.tensor(ratio), free, free)
    expected = Bernoulli(probs=1 - torch.exp(-torch.tensor(hazard, dtype=torch.float64)))
    torch.testing.assert_close(stop_log_prob.double(), expected.log_prob(stop.double()), rtol=1e-4, atol=1e-5)
    alpha, beta = 1 + mode * (concentration - 2), 1 + (1 - mode) * (concentration - 2)
    density = Beta(torch.tensor(alpha, dtype=torch.float64), torch.tensor(beta, dtype=torch.float64))
    torch.testing.assert_close(
        jump_log_prob.double(), density.log_prob(torch.tensor(ratio, dtype=torch.float64)), rtol=1e-3, atol=1e-3
    )


def test_forced_decisions_and_padding_have_log_probability_zero_and_finite_gradients() -> None:
    hazard = torch.tensor([0.0, 0.1], requires_grad=True)
    output = SantsOutput(hazard, torch.tensor([0.5, 0.5]), torch.tensor([20.0, 20.0]))
    forced = torch.tensor([False, False])
    stop_log_prob, jump_log_prob = log_prob(output, torch.tensor([True, False]), torch.zeros(2), forced, forced)
    assert stop_log_prob.tolist() == [0.0, 0.0]
    assert jump_log_prob.tolist() == [0.0, 0.0]
    (stop_log_prob.sum() + jump_log_prob.sum()).backward()
    assert torch.isfinite(hazard.grad).all()


@given(st.integers(1, 60), st.floats(1.0, 10.0))
def test_grids_fall_from_one_to_zero(steps: int, shift: float) -> None:
    grid = shifted_grid(steps, shift)
    assert grid[0] == 1
    assert grid[-1] == 0
    assert (grid.diff() < 0).all()


@given(st.integers(2, 60), st.floats(1.0, 10.0))
def test_the_reference_step_from_a_grid_level_is_the_next_level(steps: int, shift: float) -> None:
    grid = shifted_grid(steps, shift)
    torch.testing.assert_close(next_on_grid(grid[:-1], steps, shift), grid[1:], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@given(st.floats(0.06, 1.0))
def test_the_initial_policy_rarely_stops_and_follows_the_reference(sigma: float) -> None:
    settings = SantsSettings()
    network = untrained(settings)
    level = torch.tensor([sigma])
    output = network(torch.randn(1, SPEC.feature_dim), level)
    assert float(stop_probability(output.hazard)) == pytest.approx(0.05, abs=0.005)
    assert float(output.concentration) == pytest.approx(settings.initial_concentration, rel=1e-4)
    torch.testing.assert_close(output.mode, reference_mode(level, SPEC.reference_updates, SPEC.video_shift))
    on_grid = float(next_on_grid(level, SPEC.reference_updates, SPEC.video_shift) / level)
    assert float(output.mode) == pytest.approx(np.clip(on_grid, 0.0392, 0.9608), abs=1e-4)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=6, unique=True), st.randoms())
def test_random_numbers_of_a_row_come_from_its_seed_alone(seeds: list[int], random) -> None:
    together = dict(zip(seeds, uniform_streams(seeds, (3, 2), 1), strict=True))
    shuffled = random.sample(seeds, len(seeds))
    for seed, row in zip(shuffled, uniform_streams(shuffled, (3, 2), 1), strict=True):
        np.testing.assert_array_equal(row, together[seed])
    assert not np.array_equal(uniform_streams(seeds, (3, 2), 1), uniform_streams(seeds, (3, 2), 2))


def test_sampled_ratios_follow_the_beta_distribution() -> None:
    rows = 4000
    settings = SantsSettings()
    course = started(SantsSchedule(untrained(settings), settings), range(rows), False)
    sigma = torch.full((rows,), 0.5)
    with torch.no_grad():
        decision, trace = decided(course, sigma, 3)
        jump = course.policy(torch.zeros(1, SPEC.feature_dim), sigma[:1]).jump()
    ratio = trace.ratio
    assert float(ratio.mean()) == pytest.approx(float(jump.mean), abs=0.01)
    assert float(ratio.std()) == pytest.approx(float(jump.stddev), rel=0.05)
    assert float(decision.stop.float().mean()) == pytest.approx(0.05, abs=0.015)


def always_stopping(name: str, **changes: object) -> SantsSchedule:
    settings = SantsSettings(name=name, initial_stop_bias=8.0, **changes)
    return SantsSchedule(untrained(settings), settings)


@torch.no_grad()
def test_no_stop_before_the_least_number_of_updates() -> None:
    schedule = always_stopping("sants", min_updates=2)
    for deterministic in (True, False):
        course = started(schedule, [0, 1], deterministic)
        for updates, expected in enumerate([False, False, True]):
            decision, trace = decided(course, torch.full((2,), 0.9**updates), updates)
            assert decision.stop.tolist() == [expected, expected]
            assert trace.stop_free.tolist() == [expected, expected]


@torch.no_grad()
def test_deployment_stops_when_the_cumulative_probability_passes_the_threshold() -> None:
    settings = SantsSettings(min_updates=0, initial_stop_bias=0.0)  # dH = log 2: F = 1/2, 3/4, 7/8
    course = started(SantsSchedule(untrained(settings), settings), [0], True)
    stops = [bool(decided(course, torch.tensor([0.9]), updates)[0].stop) for updates in range(3)]
    assert stops == [False, False, True]


@torch.no_grad()
def test_jumps_below_the_terminal_level_go_to_zero() -> None:
    schedule = build_schedule("jump-only", SPEC)
    assert isinstance(schedule, SantsSchedule)
    decision, _ = decided(started(schedule, [0], True), torch.tensor([0.06]), 3)
    assert decision.sigma_video.tolist() == [[0.0, 0.0]]
    assert decision.sigma_action.tolist() == [1.0]


@torch.no_grad()
def test_one_headed_variants_leave_the_other_head_out() -> None:
    sigma = torch.tensor([0.9, 0.5])
    schedule = build_schedule("stop-only", SPEC)
    assert isinstance(schedule, SantsSchedule)
    stop_only, trace = decided(started(schedule, [0, 1], False), sigma, 1)
    following = next_on_grid(sigma, SPEC.reference_updates, SPEC.video_shift)
    torch.testing.assert_close(stop_only.sigma_video, following[:, None].expand(-1, SPEC.future_frames))
    assert not trace.jump_free.any()
    jump_only, trace = decided(started(always_stopping("jump-only"), [0, 1], False), sigma, 1)
    assert not jump_only.stop.any()
    assert not trace.stop_free.any()
    assert trace.jump_free.all()


def test_names_choose_schedules() -> None:
    full, five = (build_schedule(name, SPEC) for name in ("fixed-full", "fixed-5"))
    assert isinstance(full, GridSchedule)
    assert isinstance(five, GridSchedule)
    assert full.video[0, :, 0].tolist() == shifted_grid(25, 5.0).tolist()
    assert (five.video.shape, five.updates.tolist(), five.action) == ((1, 6, 1), [5], None)
    for name in ("sants", "stop-only", "jump-only", "noisegate", "gate-and-stop"):
        assert build_schedule(name, SPEC).name == name


@pytest.mark.parametrize(
    "name",
    [
        "fixed-0",
        "fixed-x",
        "fixed",
        "fixed--3",
        "fixed-3-",
        "fixed-3-1",
        "fixed-then-1",
        "fixed-3-then",
        "fixed-3-then-0",
        "fixed-3-then-1-then-2",
        "fixed-3-then-1-1",
        "fixed-3-then-1-then-fixed-2",
        "joint-then-",
        "-then-joint",
        "joint-then-adaptive",
        "adaptive",
        "",
        "sants-2",
        "noisegate-2",
        "sants-",
        "stop_only",
    ],
)
def test_a_wrong_name_says_what_would_be_right(name: str) -> None:
    said = rf"^'{name}' is no schedule: .*fixed-<full\|updates>.*joint\[-<steps>\].*stop-only"
    with pytest.raises(ValueError, match=said):
        build_schedule(name, SPEC)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sants-then-joint", "sants learns"),
        ("joint-then-noisegate", "noisegate learns"),
        ("joint-then-random-scales-4", "the levels of random-scales-4 are not known"),
        ("fixed-3-then-joint", "mixes cascades and joint walks"),
        ("joint-then-all-fast-then-fixed-1", "mixes cascades and joint walks"),
    ],
)
def test_only_constants_of_one_kind_are_joined(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}': .*{said}"):
        build_schedule(name, SPEC)


def test_a_joined_name_takes_the_settings_of_the_run() -> None:
    schedule = build_schedule("joint-then-all-fast", SPEC, JointSettings(steps=4, scale_bound=0.5))
    assert isinstance(schedule, QuerySchedule)
    assert schedule.grids.updates.tolist() == [4, 4]
    assert schedule.grids.video[0, 1, 0] > schedule.grids.video[1, 1, 0]


def test_the_registry_knows_which_schedules_take_a_number() -> None:
    counted = {"all-fast", "all-slow", "first-frame-first", "fixed", "handcrafted", "joint", "last-frame-first"}
    assert {name for name, entry in SCHEDULES.all().items() if entry.takes("3")} == counted | {"random-scales", "sync"}
    assert {name for name, entry in SCHEDULES.all().items() if not entry.takes("")} == {"fixed", "sync"}
    for name in counted:
        assert build_schedule(f"{name}-3", SPEC).name == f"{name}-3"


def test_a_schedule_is_known_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file in the folder is enough; what may stand behind the name is said where it is registered."""
    (tmp_path / "linear.py").write_text(
        "from policies.catalogue import COUNT, OPTIONAL_COUNT, register\n\n"
        "register('linear', OPTIONAL_COUNT)(lambda request: ('linear', request.argument))\n"
        "register('steps', COUNT)(lambda request: ('steps', request.argument))\n"
        "register('odd')(lambda request: ('odd', request.argument))\n"
    )
    monkeypatch.setattr(SCHEDULES, "_parts", SCHEDULES.all())
    monkeypatch.setattr(SCHEDULES, "_files", set(SCHEDULES._files))
    monkeypatch.setattr(policies.schedules, "__path__", [*policies.schedules.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "policies.schedules.linear", raising=False)
    for name, expected in (("linear", ("linear", "")), ("linear-4", ("linear", "4")), ("odd", ("odd", ""))):
        assert build_schedule(name, SPEC) == expected
    assert build_schedule("steps-4", SPEC) == ("steps", "4")
    for wrong in ("linear-", "linear-0", "odd-4", "steps"):
        with pytest.raises(ValueError, match=r"linear\[-<steps>\].*odd, .*steps-<steps>"):
            find_schedule(wrong)


def test_a_wrong_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'sometimes' .*stop-only"):
        learned_kind("sometimes")
    (problem,) = section_problems(SantsSettings(name="sometimes"))
    assert problem.key == "name"
    assert "stop-only" in problem.fix

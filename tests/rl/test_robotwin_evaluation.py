"""The official evaluation out of a manifest, on a made-up RoboTwin with its real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.schema import Config, EnvConfig, GroupsConfig
from envs.instructions import played_instructions
from envs.robotwin.feasibility import find_seeds
from envs.robotwin.manifest import ManifestError
from envs.suites import Wanted, wanted_seeds
from rl.collectors.groups import group_tasks
from rl.evaluation.evaluation import cells_of, evaluate, fingerprint
from rl.evaluation.sources import sources_of
from tests.envs.robotwin.fake_root import LIMITS
from tests.envs.robotwin.scripted import ACCEPTED, TASK, scripted_settings, write_scripted_root
from tests.rl.recipes import closed_loop_settings

SCHEDULES = ["fixed-full", "fixed-1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the manifest of three evaluation episodes and two scenes of groups."""
    failing = {"unstable": 100_001, "plan_failed": 100_002}
    root = write_scripted_root(tmp_path_factory.mktemp("scripted") / "RoboTwin", failing=failing)
    settings = settings_of(root)
    find_seeds(settings.env, {"evaluation": wanted_seeds(settings)["evaluation"], "groups": Wanted(250_000, 2)}, 1)
    return root


def settings_of(root: Path) -> Config:
    settings = scripted_settings(root, closed_loop_settings(episodes=0))
    settings.evaluation.episodes_per_task, settings.evaluation.segments = 3, 0
    settings.evaluation.schedules = SCHEDULES
    return settings


@pytest.mark.parametrize("kind", ["seen", "unseen"])
def test_an_evaluation_plays_the_accepted_seeds_and_says_what_it_depends_on(
    kind: str, root: Path, tmp_path: Path
) -> None:
    settings = settings_of(root)
    settings.env.options.instruction_type = kind
    settings.env.options.train_step_limit = 4  # no evaluation's business
    result = evaluate(settings, sources_of(SCHEDULES, {}), tmp_path / "table.json")
    assert result is not None
    saved = json.loads((tmp_path / "table.json").read_text())
    cells = saved["episodes"]["fixed-full"]["cells"]
    assert [cell["seed"] for cell in cells] == [*ACCEPTED[:2], 100_004]
    details = [cell["entry"]["details"] for cell in cells]
    assert all(one["instruction"].startswith(f"{kind} ") for one in details)
    assert played_instructions(settings, ["evaluation"]) == {one["instruction"] for one in details}
    assert {one["steps"] for one in details if one} <= {LIMITS[TASK]}
    simulator = saved["fingerprint"]["simulator"]
    assert simulator["instruction_type"] == kind
    assert simulator["skipped_seeds"]["evaluation"][TASK] == {"unstable": 1, "plan_failed": 1}
    assert simulator["step_limits"] == {TASK: LIMITS[TASK]}
    assert "options" not in saved["fingerprint"]["config"]["env"]
    assert saved["rows"]["fixed-full"]["all"]["outcomes"] == {"step_limit": 3}
    assert str(root) not in json.dumps(saved["fingerprint"])


def test_another_instruction_type_is_another_result(root: Path) -> None:
    settings, specs = settings_of(root), {"": closed_loop_spec()}
    unseen = fingerprint(settings, [], specs)
    settings.env.options.instruction_type = "seen"
    assert fingerprint(settings, [], specs) != unseen


def closed_loop_spec() -> object:
    from tests.analytic import SPEC

    return SPEC


def test_more_episodes_than_the_manifest_has_are_refused(root: Path) -> None:
    settings = settings_of(root)
    settings.evaluation.episodes_per_task = 4
    with pytest.raises(ManifestError, match=r"3 feasible seeds from 100000 on, and 4 are needed"):
        cells_of(settings)


def test_groups_are_of_accepted_scenes(root: Path) -> None:
    settings = settings_of(root)
    groups = GroupsConfig(first_seed=250_000, seeds_per_task=2)
    tasks = group_tasks(settings.env, groups, seed=1, cursor=0, count=2)
    assert {episode.seed for group in tasks for episode in group} == {250_000, 250_001}
    groups.seeds_per_task = 3
    with pytest.raises(ManifestError, match="2 feasible seeds"):
        group_tasks(settings.env, groups, seed=1, cursor=0, count=1)


def test_the_suite_numbers_its_seeds_as_before() -> None:
    settings = Config(env=EnvConfig(tasks=["click_bell", "lift_pot"]))
    settings.evaluation.episodes_per_task = 2
    seeds = [(cell.task, cell.seed) for cell in cells_of(settings)]
    assert seeds == [(task, seed) for task in ("click_bell", "lift_pot") for seed in (100_000, 100_001)]
    (group,) = group_tasks(settings.env, GroupsConfig(), seed=1, cursor=0, count=1)
    assert 200_000 <= group[0].seed < 201_000

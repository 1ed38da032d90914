"""Which changes of the settings make another run of it."""

from __future__ import annotations

import dataclasses
import json

import pytest

from configs.fields import free_keys, leaves
from configs.schema import Config, EnvConfig
from envs.suites import new_options
from rl.method import choose, new_section
from rl.runs.checkpoints import Checkpoint
from rl.runs.settings import changed_settings

METHODS = {"sants": "segments", "noisegate": "groups"}
FREE_TO_CHANGE = {
    "run.name", "run.root", "run.iterations", "run.checkpoint_every", "run.keep_checkpoints", "run.resume",
    "run.inherit", "run.quick", "rollout.runners", "rollout.gpus_per_runner", "rollout.episodes_per_runner",
    "rollout.cpus_per_simulator", "rollout.placement", "rollout.room_deadline_s",
    "rollout.max_empty_iterations", "rollout.max_restarts", "rollout.restart_deadline_s", "rollout.request_deadline_s",
    "env.reset_deadline_s", "env.chunk_deadline_s", "env.recycle_episodes", "env.recycle_rss_mib",
    "wam.checkpoint", "wam.statistics", "wam.vae", "wam.embeddings", "wam.device", "wam.torch_threads",
    "demonstrations.workers",
    "plan.chunk",
}  # fmt: skip
FREE_SECTIONS = ("bench.", "evaluation.", "convert.", "embed.", "pretrain.", "returns.", "value.",
                 "demonstrations.failures.")  # fmt: skip
FREE_OF_A_COLLECTOR = {"segments": set[str](), "groups": {"collector.overlap"}}
FREE_OF_AN_OBJECTIVE = {"segments": set[str](), "groups": {"objective.max_equal_iterations"}}


def written(settings: Config) -> Checkpoint:
    return Checkpoint({}, {}, {}, {}, json.loads(json.dumps(dataclasses.asdict(settings))))


@pytest.mark.parametrize(("schedule", "collector"), METHODS.items())
def test_the_same_settings_are_the_same_after_a_round_through_json(schedule: str, collector: str) -> None:
    settings = choose(schedule, collector)
    assert changed_settings(written(settings), settings) == []


@pytest.mark.parametrize(("schedule", "collector"), METHODS.items())
def test_a_run_knows_the_settings_of_its_own_choices_alone(schedule: str, collector: str) -> None:
    """What the other method reads is not there at all, so that it cannot differ."""
    settings = choose(schedule, collector)
    settings.objective.clip = 0.5
    before = written(choose(schedule, collector))
    assert changed_settings(before, settings) == ["objective.clip"]
    own = {key.partition(".")[0] for key, _ in leaves(settings)}
    other = {"path", "cost"} if collector == "groups" else {"success"}
    assert own == {entry.name for entry in dataclasses.fields(Config)}
    assert not other & settings.reward.keys()


def test_another_choice_is_another_run() -> None:
    """Each choice by its name, and what its settings no longer are."""
    before = written(choose())
    for section, kind, name in (("schedule", "schedule", "noisegate"), ("collector", "collector", "groups"),
                                ("objective", "objective", "grpo")):  # fmt: skip
        settings = choose()
        setattr(settings, section, new_section(kind, name))
        assert f"{section}.name" in changed_settings(before, settings)
    settings = choose()
    del settings.reward["cost"]
    assert "reward.cost.weight" in changed_settings(before, settings)
    settings.reward = {**choose().reward, "success": new_section("reward", "success")}
    assert changed_settings(before, settings) == ["reward.success.weight"]


def test_the_settings_of_a_suite_are_compared_like_those_of_a_method() -> None:
    settings = choose()
    settings.env = EnvConfig(suite="robotwin", options=new_options("robotwin"))
    before = written(settings)
    assert changed_settings(before, settings) == []
    settings.env.options.root, settings.env.options.action_type = "/another", "ee"
    assert changed_settings(before, settings) == ["env.options.action_type"]
    del before.config["env"]["options"]["shader"]
    assert changed_settings(before, settings) == ["env.options.action_type"], "it had its default"


def test_only_whole_names_are_free_to_change() -> None:
    """`collector.max_segments` chooses what is trained on, `rollout.max_restarts` does not."""
    settings = choose()
    settings.collector.max_segments, settings.rollout.max_restarts = 7, 7
    assert changed_settings(written(choose()), settings) == ["collector.max_segments"]


def test_a_setting_younger_than_the_checkpoint_had_its_default() -> None:
    old = written(choose())
    del old.config["objective"]["learning_rate_end"], old.config["collector"], old.config["schedule"]["trunk_widths"]
    assert changed_settings(old, choose()) == []
    settings = choose()
    settings.objective.learning_rate_end = 0.1
    assert changed_settings(old, settings) == ["objective.learning_rate_end"]


@pytest.mark.parametrize(("schedule", "collector"), METHODS.items())
def test_what_may_change_on_a_resume(schedule: str, collector: str) -> None:
    found = {key for key in free_keys(choose(schedule, collector)) if not key.startswith(FREE_SECTIONS)}
    assert found == FREE_TO_CHANGE | FREE_OF_A_COLLECTOR[collector] | FREE_OF_AN_OBJECTIVE[collector]


def test_whole_sections_may_change_on_a_resume() -> None:
    settings = choose()
    settings.evaluation.episodes_per_task, settings.pretrain.vae.steps, settings.convert.fps = 7, 7, 7.0
    assert changed_settings(written(choose()), settings) == []


def test_a_dictionary_of_a_free_section_may_change_on_a_resume() -> None:
    settings = choose()
    settings.evaluation.trained = {"noisegate": "runs/noisegate"}
    assert changed_settings(written(choose()), settings) == []
    assert changed_settings(written(settings), choose()) == []

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from configs.fields import FieldLimits, children, is_section, leaves, section_problems, setting
from configs.schema import Config, EnvConfig, EvaluationConfig
from configs.validation import known_tasks, value_problems
from envs.seeds import seed_problems
from envs.suites import new_options
from rl.method import choose, method_problems
from rl.rewards.path import PathConfig, PathReward
from tests.analytic import SPEC

METHODS = {
    "sants": choose("sants", "segments"),
    "stop-only": choose("stop-only", "segments"),
    "noisegate": choose("noisegate", "groups"),
    "gate-and-stop": choose("gate-and-stop", "groups", rewards=("success", "cost")),
    "sants on robotwin": choose("sants", "segments"),
}
METHODS["sants on robotwin"].env = EnvConfig(suite="robotwin", options=new_options("robotwin"))


def keys_of(config: Config) -> list[str]:
    problems = [*value_problems(config), *method_problems(config), *seed_problems(config)]
    return [problem.key for problem in problems]


def parent_of(config: Config, key: str) -> tuple[Any, str]:
    """The section that holds the value at a dotted key, and the value's name in it."""
    section: Any = config
    *path, name = key.split(".")
    for part in path:
        section = section[part] if isinstance(section, Mapping) else getattr(section, part)
    return section, name


def set_at(config: Config, key: str, value: object) -> Config:
    setattr(*parent_of(config, key), value)
    return config


def limits_of(config: Config) -> Iterator[tuple[str, FieldLimits]]:
    """Every dotted key whose field has limits."""
    for key, _ in leaves(config):
        section, name = parent_of(config, key)
        if dataclasses.is_dataclass(section):
            (entry,) = (entry for entry in dataclasses.fields(section) if entry.name == name)
            if "limits" in entry.metadata:
                yield key, entry.metadata["limits"]


def every(*kinds: str) -> list[tuple[str, str]]:
    """Method and key of every field with limits of one of these kinds, each key once for each type of section."""
    found: dict[tuple[type, str], tuple[str, str]] = {}
    for method, config in METHODS.items():
        for key, limits in limits_of(config):
            section, _ = parent_of(config, key)
            if any(getattr(limits, kind) is not None for kind in kinds):
                found.setdefault((type(section), key), (method, key))
    return list(found.values())


def fresh(method: str) -> Config:
    """The default settings of a method, to be changed by one test."""
    config = METHODS[method]
    made = choose(config.schedule.name, config.collector.name, rewards=list(config.reward))
    made.env = EnvConfig(suite=config.env.suite, options=new_options(config.env.suite))
    return made


def limits_at(method: str, key: str) -> FieldLimits:
    return dict(limits_of(METHODS[method]))[key]


def listed(value: object, like: object) -> object:
    """The value, as an element of a list where the default is a list."""
    return [value] * len(like) if isinstance(like, list) else value


def key_problems(method: str, key: str, bad: object) -> list[str]:
    """What is said of one wrong value at this key."""
    config = fresh(method)
    section, name = parent_of(config, key)
    setattr(section, name, listed(bad, getattr(section, name)))
    return [problem.fix for problem in value_problems(config) if problem.key == key]


@pytest.mark.parametrize("method", METHODS)
def test_the_defaults_are_valid(method: str) -> None:
    assert keys_of(METHODS[method]) == []


@pytest.mark.parametrize(("method", "key"), every("at_least", "at_most", "above"))
def test_a_number_outside_its_range_is_named(method: str, key: str) -> None:
    limits = limits_at(method, key)
    bad: list[float] = [float("nan"), float("inf"), float("-inf")]
    bad += [] if limits.at_least is None else [limits.at_least - 1]
    bad += [] if limits.above is None else [limits.above, limits.above - 1]
    bad += [] if limits.at_most is None else [limits.at_most + 1]
    for value in bad:
        assert key_problems(method, key, value), f"{value} was taken"
    for value in (limits.at_least, limits.at_most):
        if value is not None:
            section, name = parent_of(METHODS[method], key)
            assert limits.problem(key, listed(value, getattr(section, name))) is None


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        ({}, "Use a finite number."),
        ({"at_least": 1}, "Use a finite number of at least 1."),
        ({"above": 0}, "Use a finite number above 0."),
        ({"at_least": 0, "at_most": 0.9}, "Use a finite number between 0 and 0.9."),
        ({"above": 2, "at_most": 700}, "Use a finite number above 2 and at most 700."),
        ({"at_most": 1e6}, "Use a finite number of at most 1000000.0."),
    ],
)
def test_a_problem_says_what_a_number_may_be(limits: dict[str, float], wanted: str) -> None:
    problem = FieldLimits(**limits).problem("a.b", float("nan"))
    assert problem is not None
    assert str(problem) == f"a.b: nan is out of range. {wanted}"


@pytest.mark.parametrize("name", ["initial_concentration", "max_concentration"])
@pytest.mark.parametrize("bad", [1.2, 2.0, 1e7, float("inf"), float("nan")])
def test_a_concentration_needs_a_mode(name: str, bad: float) -> None:
    assert key_problems("sants", f"schedule.{name}", bad)


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("env.control_hz", 0),
        ("env.chunk_deadline_s", 0.0),
        ("demonstrations.validation_fraction", 0.95),
        ("schedule.terminal_sigma", 1.0),
        ("schedule.reference_stop_probability", 0.0),
        ("schedule.reference_stop_probability", 1.0),
        ("objective.clip", 0.0),
        ("objective.learning_rate", -1.0),
        ("collector.paths_per_iteration", 0),
        ("action_error.position_unit_m", 0.0),
        ("reward.path.max_gain", 0.0),
        ("reward.cost.ramp_fraction", 1.1),
        ("run.seed", 2**31),
    ],
)
def test_limits_stand_where_they_are_needed(key: str, bad: float) -> None:
    assert key_problems("sants", key, bad)


def test_every_number_of_a_method_has_a_range() -> None:
    """Only the weight of a reward and what is a logarithm or a logit may be any finite number."""
    sections = ("schedule", "collector", "objective", "reward", "action_error", "rollout", "validation", "evaluation")
    free = {"weight", "initial_stop_bias", "initial_log_std", "min_log_std", "max_log_std"}
    for config in METHODS.values():
        ranged = {key for key, limits in limits_of(config) if limits.at_least is not None or limits.above is not None}
        for key, value in leaves(config):
            if key.startswith(sections) and isinstance(value, int | float) and not isinstance(value, bool):
                assert key in ranged or key.rpartition(".")[2] in free, key


@pytest.mark.parametrize(
    ("method", "key"),
    [
        ("sants", "reward.path.weight"),
        ("sants", "schedule.initial_stop_bias"),
        ("noisegate", "schedule.min_log_std"),
        ("noisegate", "reward.success.weight"),
    ],
)
def test_a_number_without_a_range_must_be_finite(method: str, key: str) -> None:
    assert key_problems(method, key, -3.5) == []
    for bad in ("nan", "inf", "-inf"):
        assert key_problems(method, key, float(bad)) == ["Use a finite number."]


@pytest.mark.parametrize(("updates", "fits"), [(1, True), (24, True), (25, False), (99, False)])
def test_the_shallow_anchor_is_above_the_full_walk(updates: int, fits: bool) -> None:
    settings = PathConfig(shallow_updates=updates)
    if fits:
        assert PathReward(settings, SPEC).anchor_depths == (updates, SPEC.reference_updates)
        return
    with pytest.raises(ValueError, match=r"reward.path.shallow_updates.* 25\. Use at most 24"):
        PathReward(settings, SPEC)


def test_a_training_starts_from_a_folder_that_is_there(tmp_path: Path) -> None:
    assert keys_of(set_at(fresh("sants"), "run.start_from", str(tmp_path))) == []
    assert keys_of(set_at(fresh("sants"), "run.start_from", "nowhere")) == ["run.start_from"]


def test_a_run_resumes_from_a_folder_that_is_there(tmp_path: Path) -> None:
    assert keys_of(set_at(fresh("sants"), "run.resume", "never")) == []
    assert keys_of(set_at(fresh("sants"), "run.resume", str(tmp_path))) == []
    for wrong in ("nevr", str(tmp_path / "step_000010"), ""):
        assert keys_of(set_at(fresh("sants"), "run.resume", wrong)) == ["run.resume"]


@pytest.mark.parametrize(("method", "key"), every("choices"))
def test_an_unknown_choice_lists_the_known_ones(method: str, key: str) -> None:
    choices = limits_at(method, key).choices or ()  # a second problem may be that the key has no effect in this recipe
    assert any(all(str(choice) in fix for choice in choices) for fix in key_problems(method, key, "nonsense"))


@pytest.mark.parametrize(
    "key",
    [
        "env.mode",
        "env.options.shader",
        "env.options.planner",
        "env.options.instruction_type",
        "env.options.action_type",
        "convert.pixels",
        "wam.device",
        "wam.dtype",
        "schedule.name",
        "collector.split",
        "pretrain.noise",
        "pretrain.action.reads",
        "demonstrations.modes",
    ],
)
def test_what_is_chosen_by_name_has_choices(key: str) -> None:
    assert limits_at("sants on robotwin", key).choices


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", "two words"])
def test_a_run_name_cannot_leave_its_folder(name: str) -> None:
    assert "run.name" in keys_of(set_at(fresh("sants"), "run.name", name))


@pytest.mark.parametrize("key", ["env.simulator", "demonstrations.segments"])
@pytest.mark.parametrize("name", ["", "module", "module:", ":function", "module:not a name"])
def test_a_part_is_named_by_module_and_function(key: str, name: str) -> None:
    assert keys_of(set_at(fresh("sants"), key, name)) == [key]


@pytest.mark.parametrize(
    "name",
    [
        "fixed-0",
        "fixed-",
        "fixed",
        "fixed-3-1",
        "Sants",
        "fixed-5x",
        "sants-3",
        "jump-only-2",
        "noisegate-3",
        "joint-0",
        "joint-x",
    ],
)
def test_an_unknown_schedule_is_named(name: str) -> None:
    config = set_at(fresh("sants"), "evaluation.schedules", ["fixed-5", name])
    assert keys_of(config) == ["evaluation.schedules"]
    config.evaluation.trained = {name: "runs/other"}
    assert keys_of(config) == []


@pytest.mark.parametrize(
    ("names", "said"),
    [(["fixed-5", "fixed-9-1"], "is no schedule"), (["sants"], "learns"), (["sants-then-joint"], "learns")],
)
def test_a_constant_is_a_known_schedule_that_does_not_learn(names: list[str], said: str) -> None:
    (problem,) = method_problems(set_at(fresh("sants"), "evaluation.constants", names))
    assert problem.key == "evaluation.constants"
    assert said in problem.message
    assert (
        keys_of(set_at(fresh("sants"), "evaluation.constants", ["joint-10", "fixed-2-then-1", "all-fast-then-joint"]))
        == []
    )
    assert keys_of(set_at(fresh("sants"), "evaluation.constants", [])) == ["evaluation.constants"]


def test_rows_of_a_comparison_are_known_schedules() -> None:
    names = ["fixed-full", "fixed-12", "fixed-3-then-1", "sants", "joint", "joint-4", "gate-and-stop"]
    assert keys_of(set_at(fresh("sants"), "evaluation.schedules", names)) == []
    assert keys_of(set_at(fresh("sants"), "evaluation.schedules", [])) == [], "no comparison is made"
    assert keys_of(set_at(fresh("sants"), "evaluation.schedules", ["sants"] * 2)) == ["evaluation.schedules"]


@pytest.mark.parametrize("key", ["evaluation.schedules", "evaluation.reference"])
def test_a_row_walks_on_a_backbone_that_is_named(key: str) -> None:
    row = "joint-10@other"
    config = set_at(fresh("sants"), key, listed(row, getattr(EvaluationConfig(), key.rpartition(".")[2])))
    config.evaluation.schedules = config.evaluation.schedules[:1]
    (problem,) = value_problems(config)
    assert problem.key == key
    assert "evaluation.backbones.other=" in problem.fix
    config.evaluation.backbones = {"other": "somewhere"}
    assert keys_of(config) == []


def test_minibatches_that_do_not_divide_the_batch_are_refused() -> None:
    assert keys_of(set_at(fresh("sants"), "objective.minibatch_paths", 60)) == ["objective.minibatch_paths"]


def test_paths_of_a_segment_divide_the_batch() -> None:
    assert keys_of(set_at(fresh("sants"), "collector.paths_per_segment", 4)) == []
    assert keys_of(set_at(fresh("sants"), "collector.paths_per_segment", 5)) == ["collector.paths_per_segment"]


def test_splits_leave_something_to_train_on() -> None:
    config = set_at(fresh("sants"), "demonstrations.validation_fraction", 0.5)
    assert keys_of(set_at(config, "demonstrations.test_fraction", 0.4)) == []
    assert keys_of(set_at(config, "demonstrations.test_fraction", 0.5)) == ["demonstrations.validation_fraction"]


def test_asynchronous_groups_need_runners_and_no_rounds() -> None:
    config = set_at(fresh("noisegate"), "collector.asynchronous", True)
    assert keys_of(config) == []
    assert keys_of(set_at(config, "collector.resample_budget", 2)) == ["collector.resample_budget"]
    config.collector.resample_budget, config.rollout.runners = 0, 0
    assert keys_of(config) == ["collector.asynchronous"]


def test_seeds_for_training_and_testing_may_not_meet() -> None:
    config = fresh("sants")
    config.validation.first_seed = config.evaluation.first_seed - 1
    assert keys_of(config) == ["evaluation.first_seed"]


def test_tasks_are_known_by_their_files_and_must_be_distinct() -> None:
    assert set(Config().env.tasks) <= set(known_tasks())
    for wrong in (["click_bell", "click_bell"], [], ["base"]):
        assert keys_of(set_at(fresh("sants"), "env.tasks", wrong)) == ["env.tasks"]
    assert keys_of(set_at(fresh("sants"), "demonstrations.modes", ["clean", "clean"])) == ["demonstrations.modes"]


def test_every_problem_is_found_at_once() -> None:
    config = fresh("sants")
    config.env.mode, config.objective.clip, config.run.iterations = "dirty", 0.0, 0
    assert set(keys_of(config)) == {"env.mode", "objective.clip", "run.iterations"}


@pytest.mark.parametrize(
    ("key", "value"),
    [("trunk_widths", []), ("trunk_widths", [8, 0]), ("min_updates", 26), ("initial_concentration", 300.0)],
)
def test_a_sants_network_that_cannot_be_built_is_named(key: str, value: object) -> None:
    assert keys_of(set_at(fresh("sants"), f"schedule.{key}", value)) == [f"schedule.{key}"]


@pytest.mark.parametrize("method", ["noisegate", "gate-and-stop"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("channels", [32]),
        ("channels", [32, 20]),
        ("width", 60),
        ("initial_log_std", 1.0),
    ],
)
def test_a_gate_that_cannot_be_built_is_named(method: str, key: str, value: object) -> None:
    assert keys_of(set_at(fresh(method), f"schedule.{key}", value)) == [f"schedule.{key}"]


def test_a_gate_must_have_a_step_to_stop_at() -> None:
    for updates, expected in ((9, []), (10, ["schedule.min_updates"])):
        assert keys_of(set_at(fresh("gate-and-stop"), "schedule.min_updates", updates)) == expected


def test_a_default_that_can_change_is_made_anew() -> None:
    @dataclasses.dataclass
    class Section:
        names: list[str] = setting(["a"])
        inner: EvaluationConfig = setting(EvaluationConfig)

    one, other = Section(), Section()
    one.names.append("b")
    one.inner.schedules.append("b")
    assert other == Section()
    assert is_section(other.inner)
    assert [name for name, _ in children(other)] == ["names", "inner"]
    assert list(section_problems(other)) == []

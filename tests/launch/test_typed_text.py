"""A text of the command line or of a recipe stays as it was typed, and survives being printed and read again."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from configs.fields import ConfigError
from configs.schema import Config
from launch.shell.cli import parse, resolve, to_yaml
from launch.shell.console import PlainConsole
from launch.shell.texts import nearest

NAMES = ["20261126_1030", "007", "yes", "Off", "1e3", "0x10", "2026-11-26", "1_000", "true"]
PRINTABLE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
FILES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def typed(*arguments: str) -> Config:
    return resolve(parse(arguments, {}))


def from_recipe(path: Path, text: str) -> Config:
    path.write_text(text, encoding="utf-8")
    return typed(str(path))


def said(*arguments: str) -> str:
    with pytest.raises(ConfigError) as refusal:
        typed(*arguments)
    return str(refusal.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stays_as_it_was_typed(name: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    for config in (
        typed(f"run.name={name}", f"run.root={name}", f"evaluation.trained.{name}={name}"),
        from_recipe(recipe, f"run: {{name: {name}, root: {name}}}\nevaluation: {{trained: {{{name}: {name}}}}}"),
        typed(f"run.name='{name}'", f'run.root="{name}"', f"evaluation.trained={{{name}: {name}}}"),
    ):
        assert (config.run.name, config.run.root, config.evaluation.trained) == (name, name, {name: name})


def test_lists_of_texts_stay_as_they_were_typed(tmp_path: Path) -> None:
    tasks = ["demonstrations.modes=[clean]", "evaluation.reference=007", "evaluation.trained={007: a, yes: b}"]
    config = typed("evaluation.schedules=[007, yes]", *tasks)
    assert config.evaluation.schedules == ["007", "yes"]
    recipe = "evaluation: {schedules: [007, yes], reference: 007, trained: {007: a, yes: b}}"
    assert from_recipe(tmp_path / "recipe.yaml", recipe).evaluation.schedules == ["007", "yes"]


@pytest.mark.parametrize("name", ["12:30", "a b", "[x]", "{a: b}", "a: b", "*x", "x # y", "'", "~", "a/b", "???"])
def test_what_is_no_folder_name_is_refused_as_it_was_typed(name: str) -> None:
    assert name in said(f"run.name={name}")
    assert typed(f"convert.robot_type=x {name}").convert.robot_type == f"x {name}"


def test_numbers_and_truth_values_are_read_by_the_type_of_their_field(tmp_path: Path) -> None:
    recipe = "run: {quick: yes, seed: 1_000}\nobjective: {clip: 1e-1}\nschedule: {name: noisegate, channels: [8, 16]}"
    config = from_recipe(tmp_path / "recipe.yaml", recipe)
    assert (config.run.quick, config.run.seed, config.objective.clip) == (True, 1000, 0.1)
    assert config.schedule.channels == [8, 16]  # type: ignore[attr-defined]
    assert config.run.name.endswith("-quick")
    for wrong in ("rollout.runners=1:30", "run.seed=2026-11-26", "run.quick=maybe", "run.iterations=0x", "env.tasks=x"):
        assert wrong.partition("=")[0] in said(wrong)


@pytest.mark.parametrize("key", ["run.root", "evaluation.output", "run.seed", "env.tasks"])
@pytest.mark.parametrize("null", ["null", "Null"])
def test_null_is_no_value_of_a_field(key: str, null: str) -> None:
    assert f"{key}: null is no value" in said(f"{key}={null}")
    assert typed("run.name='null'").run.name == "null"


def test_null_leaves_out_a_reward(tmp_path: Path) -> None:
    assert list(typed("reward.cost=null").reward) == list(typed("reward.cost=~").reward) == ["path"]
    for off in ("null", "~", ""):
        assert list(from_recipe(tmp_path / "recipe.yaml", f"reward: {{path: {{}}, cost: {off}}}").reward) == ["path"]


def test_a_variable_that_is_not_expanded_is_refused_with_the_way_to_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch")
    assert typed("run.root=${oc.env:SCRATCH}/runs").run.root == "/scratch/runs"
    assert typed("run.root=a$b").run.root == "a$b"
    for left in ("${HOME}/x", "${", "\\${HOME}/x", "${oc.env:NOT_SET_ANYWHERE}"):
        assert "run.root: " in (message := said(f"run.root={left}"))
        assert "${oc.env:NAME}" in message


@FILES
@given(PRINTABLE)
def test_any_text_passes_as_it_is_or_is_refused_with_the_text(text: str) -> None:
    refusal = ""
    try:
        config = typed(f"run.name={text}")
    except ConfigError as error:
        refusal = str(error)
    else:
        assert config.run.name == (text if re.match(r"\w", text) else text[1:-1])
    if refusal:
        assert "run.name" in refusal
        assert text in ("null", "Null", "NULL") or repr(text.strip("'\""))[1:-1] in refusal


@FILES
@given(PRINTABLE, PRINTABLE)
def test_a_printed_configuration_reads_back_to_the_same_values(tmp_path: Path, root: str, output: str) -> None:
    quoted = [f"{key}={yaml.safe_dump(text)}" for key, text in (("run.root", root), ("evaluation.output", output))]
    try:
        config = typed(*quoted, f"evaluation.backbones.x={root}")
    except ConfigError:
        return
    printed = io.StringIO()
    PlainConsole(file=printed, soft_wrap=True).print(to_yaml(config), end="")
    assert from_recipe(tmp_path / "printed.yaml", printed.getvalue()) == config


def test_a_home_is_expanded_on_the_command_line_and_in_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = typed("run.root=~/runs", "evaluation.trained.best=~/best")
    assert (config.run.root, config.evaluation.trained) == (f"{tmp_path}/runs", {"best": f"{tmp_path}/best"})
    recipe = tmp_path / "recipe.yaml"
    assert from_recipe(recipe, "demonstrations: {root: ~/data}").demonstrations.root == f"{tmp_path}/data"
    assert typed("~/recipe.yaml") == typed(str(recipe))
    assert "run.root: '~nobody-here/x' names no home" in said("run.root=~nobody-here/x")


@pytest.mark.parametrize("name", ["foo", "bogus.thing", "objective.lr", "run.resolution", "x", "evaluation.colour"])
def test_nothing_is_suggested_for_a_key_that_is_like_no_other(name: str) -> None:
    assert said(f"{name}=1").endswith(f"{name}: is no key. See --help for the keys.")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("run.naem", "run.name"),
        ("rnu.seed", "run.seed"),
        ("objective.itertions", "run.iterations"),
        ("evaluation.episodes", "evaluation.episodes_per_task"),
        ("objective.learningrate", "objective.learning_rate"),
        ("iterations", "run.iterations"),
    ],
)
def test_the_most_similar_key_is_suggested(name: str, meant: str) -> None:
    assert f"Did you mean {meant}?" in said(f"{name}=1")


def test_a_recipe_or_option_that_is_like_no_other_gets_the_list() -> None:
    assert nearest("zzz", ["sants", "noisegate"]) is None
    assert "Recipes there: configs" in (message := said("configs/zzz.yaml", "--quiet"))
    assert "--quiet: is no option. See --help for the options." in message


def test_an_argument_that_is_no_unicode_text_is_refused() -> None:
    assert r"\udcff" in said("run.root=\udcff")


SECTIONS = ["run", "env", "demonstrations", "schedule", "collector", "reward", "objective", "evaluation", "pretrain"]
FIELDS = ["name", "root", "suite", "tasks", "options", "path", "cost", "weight", "backbones", "vae", "quick", "a.b", ""]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["sants", "groups", "${run.name}", "~"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=2),
    max_leaves=5,
)


@FILES
@given(st.dictionaries(st.sampled_from(SECTIONS), VALUES, max_size=3))
@example({"collector": {"name": [None]}})
def test_a_recipe_of_any_shape_is_a_configuration_or_one_clear_error(tmp_path: Path, content: object) -> None:
    try:
        config = from_recipe(tmp_path / "recipe.yaml", yaml.safe_dump(content))
    except ConfigError:
        return
    assert from_recipe(tmp_path / "printed.yaml", to_yaml(config)) == config


@FILES
@given(st.integers(0, 1500), st.binary(max_size=4))
def test_a_cut_or_damaged_recipe_is_a_configuration_or_one_clear_error(tmp_path: Path, cut: int, more: bytes) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(Path("configs/sants.yaml").read_bytes()[:cut] + more)
    with contextlib.suppress(ConfigError):
        typed(str(path))

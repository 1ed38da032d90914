from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from configs.fields import leaves
from launch.shell.cli import load_config
from rl.method import choose

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = ("ray", "sapien", "transformers", "diffusers")  # torch defines the settings of schedules


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("run: {name: mine, iterations: 7}\nobjective: {clip: 0.1}\n")
    return path


def message_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        load_config(argv, "Test.")
    assert exit_.value.code == 2
    return capsys.readouterr().err


def test_overrides_win_over_the_recipe_and_the_recipe_over_defaults(recipe: Path) -> None:
    config = load_config([str(recipe), "run.iterations=9", "env.tasks=[lift_pot]"], "Test.")
    assert (config.run.name, config.run.iterations, config.objective.clip) == ("mine", 9, 0.1)
    assert config.env.tasks == ["lift_pot"]
    assert config.objective.epochs == choose().objective.epochs


def test_all_problems_come_in_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("run: {naem: x, iterations: many}\nenvs: {mode: clean}\nreward: {path: 3}\n")
    text = message_of([str(path), "run.clip=0.3", "env.mode=dirty", "run.seed=1.5", "--dryrun"], capsys)
    for expected in (
        "run.naem: is no key. Did you mean run.name?",
        "run.iterations: Value 'many'",
        "envs.mode: is no key. Did you mean env.mode?",
        "reward.path: is a section",
        "run.clip: is no key. Did you mean objective.clip?",
        "env.mode: 'dirty' is not known. Use one of: clean, randomized.",
        "run.seed: Value '1.5'",
        "--dryrun: is no option. Did you mean --dry-run?",
        "8 problems",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("run: {name: a\n", "cannot be read"),
        ("run: {name: a, name: b}\n", "duplicate"),
        ("- 1\n", "no mapping"),
        ("run: !!python/object/apply:os.getcwd []\n", "cannot be read"),
        ("run: {name: null}\n", "run.name"),
    ],
)
def test_a_broken_recipe_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, expected: str
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    text = message_of([str(path)], capsys)
    assert expected in text
    assert "1 problem;" in text


@pytest.mark.parametrize(
    ("key", "new"),
    [
        ("scheduler.kind=noisegate", "schedule.name"),
        ("scheduler.gate.steps=5", "schedule.steps"),
        ("ppo.clip=0.1", "objective.clip"),
        ("grpo.epochs=2", "objective.epochs"),
        ("groups.size=4", "collector.size"),
        ("rollout.paths_per_iteration=32", "collector.paths_per_iteration"),
        ("rollout.segments=a:b", "demonstrations.segments"),
        ("reward.cost_weight=0.1", "reward.cost.weight"),
        ("reward.shallow_updates=3", "reward.path.shallow_updates"),
        ("reward.position_weight=2", "action_error.position_weight"),
        ("validation.paths=8", "collector.validation_paths"),
        ("wam.factory=a:b", "wam.backbone"),
        ("env.robotwin.shader=default", "env.options.shader"),
    ],
)
def test_a_key_of_an_earlier_version_is_refused_with_its_new_name(
    key: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = key.partition("=")[0]
    assert f"{name}: is a key of an earlier version. It is called {new} now." in message_of([key], capsys)


def test_a_run_carries_the_settings_of_its_own_method_only() -> None:
    sants = dict(leaves(load_config([str(REPOSITORY / "configs" / "sants.yaml")], "")))
    gate = dict(leaves(load_config([str(REPOSITORY / "configs" / "noisegate.yaml")], "")))
    assert {"schedule.stop_threshold", "collector.max_segments", "reward.path.max_gain"} <= sants.keys() - gate.keys()
    assert {"schedule.persistence", "collector.size", "objective.entropy_decay"} <= gate.keys() - sants.keys()


def test_rewards_are_named_added_and_left_out() -> None:
    assert list(load_config([], "").reward) == ["path", "cost"]
    assert list(load_config(["reward.cost=null"], "").reward) == ["path"]
    config = load_config(["collector.name=groups", "reward.success.weight=2", "reward.cost.counts=forwards"], "")
    assert (config.reward["success"].weight, config.reward["cost"].counts) == (2, "forwards")


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("reward.success.weight=1", "reward.success: needs simulators, which segments do not offer."),
        ("reward.sucess.weight=1", "reward.sucess: unknown reward 'sucess': use one of cost, path, success."),
        ("schedule.name=fixed-5", "schedule.name: 'fixed-5' is no schedule that learns: use one of gate-and-stop"),
        ("env.suite=robocasa", "env.suite: 'robocasa' is not known. Use one of: robotwin, tabletop."),
        ("env.options=3", "env.options: is a section, not a value: 3."),
        ("collector.name=episodes", "collector.name: unknown collector 'episodes': use one of groups, segments."),
        ("objective.name=ppo", "objective.name: unknown objective 'ppo': use one of grpo, path_ppo."),
        ("evaluation.schedules=[fixed-0]", "evaluation.schedules: 'fixed-0' is no schedule: use one of all-fast"),
        ("objective.minibatch_paths=60", "objective.minibatch_paths: 60 does not divide"),
    ],
)
def test_choices_that_do_not_go_together_are_one_sentence(
    argument: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in message_of([argument], capsys)


@pytest.mark.parametrize(
    ("arguments", "key", "where"),
    [
        (["configs/pretrain_mot.yaml", "pretrain.action.reads=all_latents"], "pretrain.action.reads", "family=mot"),
        (["configs/pretrain_mot.yaml", "pretrain.action.head_dim=64"], "pretrain.action.head_dim", "family=mot"),
        (["configs/pretrain_xwam.yaml", "pretrain.clean_fraction=0.5"], "pretrain.clean_fraction", "family=xwam"),
        (["pretrain.xwam.depth=none"], "pretrain.xwam.depth", "pretrain.family=tiny"),
        (["wam.vae=somewhere"], "wam.vae", "wam.backbone=tiny"),
        (["wam.backbone=xwam", "wam.value=somewhere"], "wam.value", "wam.backbone=xwam"),
        (["wam.backbone=openwam-wav", "wam.value=somewhere"], "wam.value", "wam.backbone=openwam-wav"),
        (["bench.batches=[1,4]"], "bench.batches", "wam.backbone=tiny"),
        (["env.suite=robotwin", "env.head_size=128"], "env.head_size", "env.suite=robotwin"),
        (["configs/sants_success.yaml", "run.inherit=runs/sants"], "run.inherit", "compare with no anchors"),
    ],
)
def test_a_setting_that_nobody_reads_where_it_is_set_is_refused(
    arguments: list[str], key: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = message_of(arguments, capsys)
    assert f"{key}: has no effect where" in text
    assert where in text
    assert "1 problem;" in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["configs/pretrain_mot.yaml", "pretrain.stages=[video]"], "pretrain.stages: ['video'] names no part of"),
        (["pretrain.stages=[vidoe]"], "pretrain.stages: 'vidoe' is not known. Use one of: video, action, joint."),
        (["configs/pretrain_mot.yaml", "pretrain.start_from="], "pretrain.mot.frozen_video: there is no trained video"),
    ],
)
def test_a_pretraining_that_would_train_nothing_is_refused(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in message_of(arguments, capsys)


def test_a_path_that_no_file_can_have_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * 300
    said = message_of([f"run.resume={name}"], capsys)
    assert f"{name}: cannot be read (File name too long). Correct the path" in said


def test_a_missing_recipe_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean" in message_of([str(REPOSITORY / "configs" / "sant.yaml")], capsys)


def test_quick_lays_smaller_numbers_under_explicit_ones(recipe: Path) -> None:
    full, quick = load_config([str(recipe)], ""), load_config([str(recipe), "run.quick=true"], "")
    assert quick.run.name == "mine-quick"
    assert quick.evaluation.episodes_per_task < full.evaluation.episodes_per_task
    assert load_config([str(recipe), "run.quick=true", "run.iterations=5"], "").run.iterations == 5


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_survives_its_own_printout(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config([str(path)], "")
    with pytest.raises(SystemExit) as exit_:
        load_config([str(path), "--dry-run"], "")
    assert exit_.value.code == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert load_config([str(printed)], "") == config


def test_a_recipe_may_have_smaller_numbers_of_its_own() -> None:
    """Failures are played in the scenes of demonstrations, of which a quick run has fewer."""
    full, quick = (load_config(["configs/wav.yaml", *more], "") for more in ([], ["run.quick=true"]))
    assert quick.demonstrations.failures.policy <= quick.demonstrations.episodes_per_task
    assert quick.value.updates < full.value.updates
    assert quick.value.output == f"{full.value.output}-quick"


def test_help_lists_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        load_config(["--help"], "What it does.")
    text = capsys.readouterr().out
    assert exit_.value.code == 0
    assert "What it does." in text
    assert all(key.rpartition(".")[2] in text for key, _ in leaves(choose()))


REFUSALS = """
import contextlib, io, json, runpy, sys
verbs, override, heavy = json.loads(sys.argv[1])
refused = {}
for verb in verbs:
    sys.argv = [f"launch.{verb}", "configs/sants.yaml", override]
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            runpy.run_module(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            refused[verb] = (end.code, [name for name in heavy if name in sys.modules], said.getvalue())
print(json.dumps(refused))
"""


def refusals(verbs: Sequence[str], override: str) -> list[str]:
    """What each verb says, having ended with code 2 before anything heavy was loaded: one process plays them all."""
    command = [sys.executable, "-c", REFUSALS, json.dumps([verbs, override, HEAVY])]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    refused = json.loads(done.stdout)
    assert {verb: ending[:2] for verb, ending in refused.items()} == {verb: [2, []] for verb in verbs}, refused
    return [said for _, _, said in refused.values()]


def test_a_verb_refuses_a_bad_key_before_it_loads_anything_heavy() -> None:
    for said in refusals(
        ["train", "evaluate", "export", "bench", "collect", "pretrain", "constants"], "objective.clipp=1"
    ):
        assert "Did you mean objective.clip?" in said


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("verb", ["train", "evaluate", "export", "bench", "collect", "pretrain", "doctor", "constants"])
def test_every_verb_has_help(verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [f"launch.{verb}", "--help"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module(f"launch.{verb}", run_name="__main__")
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert "usage" in text or "python -m launch" in text


def test_dry_run_prints_the_resolved_configuration(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_config([str(recipe), "--dry-run", "objective.epochs=2"], "")
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["objective"]["epochs"] == 2
    assert printed["run"]["iterations"] == 7


def test_backbones_are_named_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    rows = "evaluation.schedules=[joint-10@shared]"
    config = load_config([rows, "evaluation.backbones.shared=runs/shared/checkpoint"], "")
    assert config.evaluation.backbones == {"shared": "runs/shared/checkpoint"}
    with pytest.raises(SystemExit):
        load_config([rows], "")
    assert "Set evaluation.backbones.shared=<checkpoint>" in " ".join(capsys.readouterr().err.split())


def test_a_missing_backbone_is_named_by_the_verbs_that_load_one(capsys: pytest.CaptureFixture[str]) -> None:
    missing = ["wam.checkpoint=nowhere", "evaluation.backbones.shared=neither"]
    assert load_config(missing, "").wam.checkpoint == "nowhere"
    load_config([*missing, "wam.backbone=tests.analytic"], "", walks=True)
    with pytest.raises(SystemExit) as exit_:
        load_config(missing, "", walks=True)
    assert exit_.value.code == 2
    text = capsys.readouterr().err
    assert "wam.checkpoint: 'nowhere': no config.json there; train one with `make pretrain`" in text
    assert "evaluation.backbones.shared: 'neither'" in text


def test_an_anchor_as_deep_as_the_backbones_full_walk_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_config(["reward.path.shallow_updates=25"], "", walks=True)
    assert "reward.path.shallow_updates: 25 updates are no shallow walk" in capsys.readouterr().err


def test_a_verb_that_walks_refuses_a_missing_backbone_before_it_loads_anything_heavy() -> None:
    for said in refusals(["train", "evaluate", "export", "bench", "diagnose", "constants"], "wam.checkpoint=nowhere"):
        assert "wam.checkpoint: 'nowhere'" in said

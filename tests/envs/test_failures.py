"""Episodes that are no demonstrations: how they are collected, and that nobody takes them for demonstrations."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.failures import FailuresConfig
from configs.schema import Config, DemonstrationsConfig, EnvConfig
from envs.demonstrations import (
    CorruptDemonstration,
    EpisodeReference,
    configured_episodes,
    dataset_hash,
    episode_joints,
    list_episodes,
    read_episode,
)
from envs.demonstrations.failures import FailureFolder, count_by_outcome, list_failures
from envs.experts.failures import Report, collect_disturbed
from envs.outcomes import Outcome
from envs.process.owner import SimulatorUnavailable
from envs.simulator import ExpertReply, SimulatorSpec
from envs.suites import Suite
from launch import convert
from launch.pretrain import Pretraining
from rl.experience.segments import demonstration_segments
from tests.envs.test_demonstrations import ENV, FACTORY, collect_toy, config_for, tree_of

SCENES = 4


def settings_for(root: Path, scenes: int = SCENES, workers: int = 2, offset: float = 0.3) -> DemonstrationsConfig:
    return replace(config_for(root, workers=workers), failures=FailuresConfig(disturbed=scenes, offset=offset))


def disturb(config: DemonstrationsConfig, env: EnvConfig = ENV, image_size: int = 9) -> Report:
    """The toy's expert again, with other pictures."""
    return collect_disturbed(config, env, spec=SimulatorSpec(FACTORY, {"image_size": image_size}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six demonstrations, and the disturbed expert in the first four scenes; one episode of a policy that failed."""
    collect_toy(config_for(tmp_path / "a"))
    disturb(settings_for(tmp_path / "a"))
    add_failure(tmp_path / "a", "policy", 1)
    return tmp_path / "a"


def add_failure(root: Path, kind: str, index: int, outcome: Outcome = Outcome.step_limit, steps: int = 3) -> None:
    """A made-up episode in the scene of demonstration `index` of the toy."""
    reference = list_episodes(root, ["fine"], ["clean"], "all")[index]
    episode = read_episode(reference)
    assert reference.seed is not None
    rows = slice(None, None, -1) if steps else slice(0, 1)
    images = {name: pictures[rows][: steps + 1] for name, pictures in episode.images.items()}
    joints = episode.joints[rows][: steps + 1]
    reply = ExpertReply(images, joints, "do fine", str(outcome), {})
    folder = FailureFolder(root, "fine", "clean", kind)
    folder.bind({"made_up": True})
    folder.add(index, reference.seed, reply)


def readers(config: Config) -> dict[str, Callable[[], object]]:
    """Everything that reads demonstrations, and what it finds."""

    def pretrained() -> str:
        return Pretraining(config)._data_hash()

    return {
        "list": lambda: list_episodes(config.demonstrations.root, ["fine"], ["clean"], "all"),
        "splits": lambda: [configured_episodes(config.demonstrations, ["fine"], name) for name in ("train",)],
        "hash": lambda: dataset_hash(list_episodes(config.demonstrations.root, ["fine"], ["clean"], "all")),
        "path rewards and anchors": lambda: demonstration_segments(config, "train", 3).identity,
        "imitation": pretrained,
    }


def test_no_reader_of_demonstrations_finds_them(root: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain" / "a"
    shutil.copytree(root, plain, ignore=shutil.ignore_patterns("failures"))
    found = []
    for folder in (root, plain):
        shutil.rmtree(tmp_path / "now", ignore_errors=True)
        shutil.copytree(folder, tmp_path / "now")
        own = replace(config_for(tmp_path / "now"), gripper_range=[-1.0, 1.0])  # those of the toy
        config = Config(env=ENV, demonstrations=own)
        config.pretrain.output = str(tmp_path / "pretrain")
        found.append({name: read() for name, read in readers(config).items()})
    assert found[0] == found[1]
    assert len(list_episodes(root, ["fine"], ["clean"], "all")) == 6


def test_no_export_has_them(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("configs.validation.known_tasks", lambda: ["fine"])
    named = [f"demonstrations.root={root}", f"convert.output={tmp_path / 'shared'}", "env.tasks=[fine]"]
    pictures = "envs.demonstrations.formats.lerobot.writer.DatasetWriter"
    added: list[EpisodeReference] = []

    class Writer:
        def __init__(self, *arguments: object, **options: object) -> None:
            pass

        def __enter__(self) -> Writer:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def add(self, reference: EpisodeReference, episode: object, split: str) -> None:
            added.append(reference)

    monkeypatch.setattr(pictures, Writer)
    assert convert.main(named) == 0
    assert {one.kind for one in added} == {"expert"}
    assert len(added) == 6


def test_a_file_that_was_moved_among_demonstrations_is_refused(root: Path) -> None:
    (policy,) = list_failures(root, ["fine"], ["clean"], kinds=["policy"])
    demonstration = list_episodes(root, ["fine"], ["clean"], "all")[1]
    shutil.copy(policy.path, demonstration.path)
    for read in (read_episode, episode_joints):
        with pytest.raises(CorruptDemonstration, match="is of the kind 'policy', not 'expert'"):
            read(demonstration)
    assert collect_toy(config_for(root)).written == 1
    assert len(read_episode(demonstration)) == 6


def test_they_are_read_where_they_are_asked_for(root: Path) -> None:
    found = list_failures(root, ["fine"], ["clean"])
    assert [(one.kind, one.index, one.seed) for one in found] == [
        *(("disturbed", index, seed) for index, seed in enumerate([1, 2, 3, 4])),
        ("policy", 1, 2),
    ]
    assert count_by_outcome(found) == {("disturbed", "success"): 4, ("policy", "failure"): 1}
    assert read_episode(found[0]).style == {"arm": "left", "pace": 1.1}
    assert len(read_episode(found[-1])) == 3
    assert read_episode(found[-1]).instruction == "do fine"
    with pytest.raises(CorruptDemonstration, match="of the kind 'policy', not 'disturbed'"):
        read_episode(replace(found[-1], kind="disturbed"))
    with pytest.raises(ValueError, match="unknown kinds expert: choose among disturbed, policy"):
        list_failures(root, ["fine"], ["clean"], kinds=["expert"])


def test_they_are_in_the_split_of_their_scene(tmp_path: Path) -> None:
    config = replace(settings_for(tmp_path, scenes=6), validation_fraction=0.3, test_fraction=0.3)
    collect_toy(config)
    disturb(config)
    found = 0
    for split in ("train", "validation", "test"):
        wanted = list_episodes(tmp_path, ["fine"], ["clean"], split)
        failed = list_failures(tmp_path, ["fine"], ["clean"], split)
        assert [one.seed for one in failed] == [one.seed for one in wanted]
        found += len(failed)
    assert found == 6


def test_a_collection_does_not_depend_on_workers_or_interruptions(root: Path, tmp_path: Path) -> None:
    collect_toy(config_for(tmp_path / "b"))
    disturb(settings_for(tmp_path / "b", scenes=2, workers=1))
    report = disturb(settings_for(tmp_path / "b", workers=1))
    assert report == Report({"fine/clean/failures/disturbed": {"success": 4}}, written=2, complete=True)
    shutil.rmtree(root / "fine" / "clean" / "failures" / "policy")
    assert tree_of(root) == tree_of(tmp_path / "b")
    again = disturb(settings_for(tmp_path / "b"))
    assert (again.written, again.complete) == (0, True)
    assert collect_toy(config_for(tmp_path / "b")).written == 0


def test_a_damaged_file_is_played_again_and_the_rest_is_kept(root: Path) -> None:
    before = tree_of(root)
    path = list_failures(root, ["fine"], ["clean"])[2].path
    path.write_bytes(path.read_bytes()[:900])
    assert disturb(settings_for(root)).written == 1
    assert tree_of(root) == before


def test_other_settings_are_not_mixed(root: Path) -> None:
    with pytest.raises(ValueError, match="holds episodes with another offset: use the same settings, delete"):
        disturb(settings_for(root, offset=0.1))


def test_a_stop_keeps_what_is_played(root: Path) -> None:
    config, spec = settings_for(root, scenes=6), SimulatorSpec(FACTORY, {"image_size": 9})
    assert not collect_disturbed(config, ENV, stop_requested=lambda: True, spec=spec).complete
    assert len(list_failures(root, ["fine"], ["clean"], kinds=["disturbed"])) == SCENES
    assert disturb(config).written == 2


def test_a_scene_that_cannot_be_played_is_counted_and_not_kept(tmp_path: Path) -> None:
    env = replace(ENV, tasks=["raise"])
    config = settings_for(tmp_path, scenes=1)
    folder = tmp_path / "raise" / "clean"
    folder.mkdir(parents=True)
    (folder / "seed.txt").write_text("3\n")
    report = disturb(config, env)
    assert report == Report({"raise/clean/failures/disturbed": {"sim_fault": 1}}, written=1, complete=True)
    assert list_failures(tmp_path, ["raise"], ["clean"]) == []
    played = json.loads((folder / "failures" / "disturbed" / "played.json").read_text())["played"]["0"]
    assert (played["kept"], "the arm fell off" in played["message"]) == (False, True)
    assert disturb(config, env).written == 0


def test_an_episode_in_which_nothing_moved_is_not_kept(root: Path) -> None:
    add_failure(root, "policy", 2, Outcome.not_finite, steps=0)
    assert [one.index for one in list_failures(root, ["fine"], ["clean"], kinds=["policy"])] == [1]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "has 0 demonstrations, but 4 scenes are to be played: collect the demonstrations first"),
        (
            lambda root: shutil.copytree(root.parent / "a" / "fine", root / "fine"),
            "not collected here, in whose scenes nothing can be played",
        ),
    ],
    ids=["no demonstrations", "of somebody else"],
)
def test_what_is_missing_is_said(root: Path, prepare: Callable[[Path], object], message: str) -> None:
    prepare(root.parent / "b")
    with pytest.raises(ValueError, match=message):
        disturb(settings_for(root.parent / "b"))


def test_a_suite_without_a_disturbed_expert_and_a_simulator_that_does_not_start_say_so(root: Path) -> None:
    with pytest.raises(ValueError, match="the suite tabletop has no disturbed expert: give its `Suite` the method"):
        Suite().disturbed_expert(ENV, FailuresConfig())
    with pytest.raises(SimulatorUnavailable, match="no rendering device"):
        collect_disturbed(settings_for(root, scenes=6), ENV, spec=SimulatorSpec(FACTORY, {"start_fails": True}))


def test_a_damaged_record_is_named(root: Path) -> None:
    (root / "fine" / "clean" / "failures" / "policy" / "played.json").write_text("{")
    with pytest.raises(ValueError, match=r"policy/played\.json"):
        list_failures(root, ["fine"], ["clean"])


def test_disturbances_are_bounded_and_start_late() -> None:
    from envs.tabletop.disturbed import Disturbance, Strength, draw_disturbance

    rng = np.random.default_rng(0)
    for _ in range(20):
        one = draw_disturbance(rng, Strength(0.3, 0.02, 1.0), ("left",), 10)
        assert 0.15 <= np.linalg.norm(one.offset[:6]) <= 0.3
        assert not one.offset[6:].any()
        assert 2 <= one.onset <= 10
    still = Disturbance(np.full(14, 0.1), np.zeros(14), onset=2, ramp=2, memory=0.5, slips=True)
    actions = np.zeros((6, 14))
    actions[:, 6] = np.arange(6)
    changed = np.stack(list(still.applied(actions, rng)))
    np.testing.assert_allclose(changed[:, 0], [0, 0, 0.05, 0.1, 0.1, 0.1])
    assert changed[:, 6].tolist() == [0, 1, 2, 2, 2, 2]

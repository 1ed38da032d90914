"""Episodes that are no demonstrations: how they are collected, and that nobody takes them for demonstrations."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.failures import KINDS, FailuresConfig
from configs.schema import Config, DemonstrationsConfig, EnvConfig
from envs.demonstrations import (
    SPLITS,
    CorruptDemonstration,
    configured_episodes,
    dataset_hash,
    episode_joints,
    list_episodes,
    read_episode,
)
from envs.demonstrations.failures import FailureFolder, list_failures
from envs.demonstrations.formats import known_formats
from envs.experts.collection import is_collected_elsewhere
from envs.experts.failures import Report, collect_disturbed
from envs.outcomes import Outcome
from envs.process.owner import SimulatorUnavailable
from envs.simulator import ExpertReply, SimulatorSpec
from envs.suites import Suite
from envs.tabletop.env import TabletopEnv
from launch.convert import convert
from launch.pretrain import Pretraining
from rl.evaluation.futures.measuring import held_out_windows
from rl.experience.segments import load_segments
from tests.envs.demonstration_trees import episode_of, with_depth, write_legacy
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


def add_failure(
    root: Path, kind: str, index: int, outcome: Outcome = Outcome.step_limit, steps: int = 3, task: str = "fine"
) -> None:
    """A made-up episode in the scene of demonstration `index`."""
    reference = list_episodes(root, [task], ["clean"], "all")[index]
    episode = read_episode(reference)
    assert reference.seed is not None
    rows = slice(None, None, -1) if steps else slice(0, 1)
    images = {name: pictures[rows][: steps + 1] for name, pictures in episode.images.items()}
    joints = episode.joints[rows][: steps + 1]
    reply = ExpertReply(images, joints, f"do {task}", str(outcome), {})
    folder = FailureFolder(root, task, "clean", kind)
    folder.bind({"made_up": True})
    folder.add(index, reference.seed, reply)


def bells(root: Path) -> Config:
    """The settings of readers of a tree with `click_bell`, whose demonstrations are in all three splits."""
    own = DemonstrationsConfig(root=str(root), episodes_per_task=6, validation_fraction=0.3, test_fraction=0.3)
    config = Config(env=EnvConfig(tasks=["click_bell"]), demonstrations=own)
    config.pretrain.output = str(root.parent / "pretrain")
    config.convert.output = str(root.parent / "converted")
    return config


def listed(config: Config) -> object:
    root = config.demonstrations.root
    episodes = list_episodes(root, ["click_bell"], ["clean"], "all")
    return episodes, [read_episode(one).joints.tolist() for one in episodes], is_collected_elsewhere(Path(root))


def split(config: Config) -> object:
    return [configured_episodes(config.demonstrations, ["click_bell"], name) for name in SPLITS]


def hashed(config: Config) -> object:
    return dataset_hash(configured_episodes(config.demonstrations, ["click_bell"], "all"))


def imitated(config: Config) -> object:
    pretraining = Pretraining(config)
    return pretraining.data, [len(pretraining._episodes(name)) for name in ("train", "validation")]


def segmented(config: Config) -> object:
    """What path rewards, their anchors and their calibration are computed on."""
    sources = [load_segments(config, name, 3) for name in SPLITS]
    return [(source.identity, [source[index].episode for index in range(len(source))]) for source in sources]


def imagined(config: Config) -> object:
    return [(one.episode, one.start, one.observation["joints"].tolist()) for one in held_out_windows(config, 6, 2)]


def exported(config: Config) -> object:
    convert(config)
    written = tree_of(Path(config.convert.output))
    shutil.rmtree(config.convert.output)
    return written


def recognised(config: Config) -> object:
    """What every format finds, also for a root one folder above or below the right one."""
    root = Path(config.demonstrations.root)
    places = [
        (one, place)
        for one in known_formats().values()
        for place in (root.parent, root, root / "click_bell")
        if one.recognises(place)
    ]
    return [found for one, place in places for found in one.references(place, ["click_bell"], ["clean"], "")]


READERS = [listed, split, hashed, imitated, segmented, imagined, exported, recognised]


@pytest.mark.parametrize("read", READERS, ids=[reader.__name__ for reader in READERS])
def test_no_reader_of_demonstrations_finds_them(read: Callable[[Config], object], tmp_path: Path) -> None:
    root = tmp_path / "demonstrations"
    for index in range(6):
        write_legacy(root / "click_bell" / "clean", index, with_depth(episode_of(index), index))
    (root / "click_bell" / "clean" / "seed.txt").write_text("3 4 5 6 7 8")
    config = bells(root)
    before = read(config)
    assert before
    for kind in KINDS:
        add_failure(root, kind, 1, task="click_bell")
        add_failure(root, kind, 2, Outcome.success, task="click_bell")
    assert len(list_failures(root, ["click_bell"], ["clean"])) == 4
    assert read(config) == before


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
    assert [one.succeeded for one in found] == [True] * 4 + [False]
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


def test_the_disturbed_expert_mostly_fails_and_depends_on_the_seed_alone() -> None:
    """Real physics, without pictures."""
    from envs.tabletop.disturbed import Strength, record_disturbed
    from envs.tabletop.recording import record_expert

    strength, env = Strength(0.3, 0.02, 0.25), TabletopEnv("place_block_pad", "clean", render=False)
    episodes = [record_disturbed(env, seed, strength) for seed in range(8)]
    assert sum(episode.outcome == Outcome.step_limit for episode in episodes) >= 4
    again = record_disturbed(TabletopEnv("place_block_pad", "clean", render=False), 3, strength)
    np.testing.assert_array_equal(again.joints, episodes[3].joints)
    undisturbed = record_disturbed(env, 3, Strength(0.0, 0.0, 0.0))
    np.testing.assert_array_equal(undisturbed.joints, record_expert(env, 3).joints)
    assert undisturbed.outcome == Outcome.success

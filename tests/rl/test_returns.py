"""Returns of recorded episodes: computed once, stored with a hash, computed again only where something has changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from configs.returns import ReturnsConfig
from configs.schema import Config, DemonstrationsConfig, EnvConfig
from configs.stored import DamagedFile
from envs.demonstrations import EpisodeReference, list_episodes, read_episode
from envs.demonstrations.failures import FailureFolder
from envs.demonstrations.formats.legacy import Folder
from envs.outcomes import Outcome
from envs.simulator import ExpertReply
from launch import returns
from rl.returns.computing import compute_returns, configured_returns
from rl.returns.dense import Goal, components, scored
from rl.returns.stored import read_returns
from tests.envs.demonstration_trees import episode_of, write_legacy

SEEDS = [5, 7, 8]


def config_for(root: Path, **options: object) -> Config:
    own = DemonstrationsConfig(root=str(root), episodes_per_task=3)
    return Config(env=EnvConfig(tasks=["click_bell"]), demonstrations=own, returns=ReturnsConfig(**options))


def add_failure(root: Path, kind: str, index: int, outcome: Outcome, steps: int = 4) -> None:
    episode = episode_of(100 + index, actions=steps)
    reply = ExpertReply(episode.images, episode.joints, "press it", str(outcome), {})
    folder = FailureFolder(root, "click_bell", "clean", kind)
    folder.bind({"made_up": True})
    folder.add(index, SEEDS[index], reply)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three demonstrations; in their scenes two episodes of the disturbed expert and one of a policy."""
    folder = tmp_path / "demonstrations"
    for index in range(len(SEEDS)):
        write_legacy(folder / "click_bell" / "clean", index, episode_of(index))
    Folder(folder, "click_bell", "clean").seeds_path.write_text(" ".join(map(str, SEEDS)))
    (folder / "splits.json").write_text(json.dumps({"train": [8, 7], "validation": [], "test": [5]}))
    add_failure(folder, "disturbed", 0, Outcome.step_limit)
    add_failure(folder, "disturbed", 1, Outcome.success)
    add_failure(folder, "policy", 1, Outcome.step_limit)
    return folder


def file_of(root: Path) -> Path:
    return root / "returns" / "click_bell" / "clean.safetensors"


def test_returns_are_those_of_the_pure_functions_and_of_the_right_goals(root: Path) -> None:
    config = config_for(root)
    assert compute_returns(config).now == 6
    found = {(one.reference.kind, one.reference.index): one for one in configured_returns(config)}
    assert list(found) == [
        *(("expert", index) for index in range(3)),
        ("disturbed", 0),
        ("disturbed", 1),
        ("policy", 1),
    ]
    demonstrations = list_episodes(root, ["click_bell"], ["clean"], "all")
    goals: dict[tuple[str, int], EpisodeReference] = {name: one.reference for name, one in found.items()}
    goals |= {("disturbed", 0): demonstrations[0], ("policy", 1): demonstrations[1]}
    for name, one in found.items():
        rows = components(read_episode(one.reference), Goal.of(read_episode(goals[name])), 0.01)
        wanted = scored(rows, config.returns)
        np.testing.assert_array_equal(one.components, rows)
        np.testing.assert_array_equal(one.rewards, wanted.rewards)
        np.testing.assert_array_equal(one.returns, wanted.returns)
        assert one.returns.shape == (len(read_episode(one.reference)) + 1,)
    assert found["expert", 0].rewards[-1] > found["disturbed", 0].rewards[-1]


def test_held_out_scenes_are_held_out_for_every_kind(root: Path) -> None:
    config = config_for(root)
    compute_returns(config)
    train, test = (configured_returns(config, split) for split in ("train", "test"))
    assert {one.reference.seed for one in train} == {7, 8}
    assert [(one.reference.kind, one.reference.seed) for one in test] == [("expert", 5), ("disturbed", 5)]


def test_nothing_is_computed_twice_and_only_what_changed_again(root: Path) -> None:
    config = config_for(root)
    assert compute_returns(config).now == 6
    written = file_of(root).stat().st_mtime_ns
    assert compute_returns(config).now == 0
    assert file_of(root).stat().st_mtime_ns == written
    write_legacy(root / "click_bell" / "clean", 1, episode_of(50))
    with pytest.raises(ValueError, match=r"computed from other files or settings than .*episode1\.hdf5: run"):
        configured_returns(config)
    assert compute_returns(config).now == 2  # the demonstration, and the failed policy that is compared with its end
    add_failure(root, "policy", 2, Outcome.step_limit)
    with pytest.raises(ValueError, match=r"has no returns of .*policy/data/episode2\.hdf5: run"):
        configured_returns(config)
    assert compute_returns(config).now == 1
    assert len(configured_returns(config)) == 7


@pytest.mark.parametrize(
    "change", [{"discount": 0.5}, {"horizon": 3}, {"after_end": "zero"}], ids=["discount", "horizon", "after the end"]
)
def test_other_returns_need_no_pictures(root: Path, change: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    compute_returns(config_for(root))
    before = configured_returns(config_for(root))
    changed = config_for(root, **change)
    with pytest.raises(ValueError, match="was computed with other settings of `returns`"):
        configured_returns(changed)
    monkeypatch.delattr("rl.returns.computing.read_episode")
    assert compute_returns(changed).now == 0
    after = configured_returns(changed)
    assert any((one.returns != other.returns).any() for one, other in zip(before, after, strict=True))


def test_another_scale_and_another_goal_are_computed_again(root: Path) -> None:
    compute_returns(config_for(root))
    assert compute_returns(config_for(root, mse_scale=0.02)).now == 6
    assert compute_returns(config_for(root, mse_scale=0.02, failed_goal="own")).now == 2


def test_weights_count(root: Path) -> None:
    config = config_for(root)
    compute_returns(config)
    config.returns.weights = replace(config.returns.weights, joint_velocity=0.0)
    compute_returns(config)
    one = configured_returns(config)[0]
    np.testing.assert_allclose(one.rewards, scored(one.components, config.returns).rewards)


def test_a_copy_elsewhere_keeps_them_and_a_folder_of_their_own_leaves_the_root_alone(root: Path) -> None:
    compute_returns(config_for(root))
    moved = root.rename(root.parent / "moved")
    assert compute_returns(config_for(moved)).now == 0
    apart = moved.parent / "apart"
    assert compute_returns(config_for(moved, folder=str(apart))).now == 6
    assert (apart / "click_bell" / "clean.safetensors").exists()


def test_the_file_says_what_it_holds_and_a_changed_one_is_noticed(root: Path) -> None:
    config, path = config_for(root), file_of(root)
    compute_returns(config)
    with safe_open(path, framework="numpy") as file:
        assert set(file.metadata()) == {"settings", "episodes", "hash"}
        assert file.get_tensor("components").shape == (3 * 7 + 3 * 5, 16)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match="its hash is not that of its content"):
        read_returns(path)
    with pytest.raises(DamagedFile, match=r"clean\.safetensors"):
        configured_returns(config)
    assert compute_returns(config).now == 6
    assert path.with_name("clean.safetensors.damaged").exists()


def test_what_is_missing_or_damaged_is_said(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run `make demos` first"):
        compute_returns(config_for(tmp_path / "nothing"))
    with pytest.raises(ValueError, match=r"clean\.safetensors is missing: run `python -m launch.returns`"):
        configured_returns(config_for(root))
    played = FailureFolder(root, "click_bell", "clean", "policy").references()[0].path
    played.write_bytes(played.read_bytes()[:500])
    with pytest.raises(DamagedFile, match=r"policy/data/episode1\.hdf5: unreadable"):
        compute_returns(config_for(root))
    played.parent.parent.joinpath("played.json").unlink()
    with pytest.raises(ValueError, match=r"no episodes of the kind policy of click_bell \(clean\).*failures.policy=20"):
        compute_returns(config_for(root))
    assert compute_returns(config_for(root, failures=["disturbed"])).now == 5


def test_a_failure_without_a_demonstration_of_its_scene_is_refused(root: Path) -> None:
    Folder(root, "click_bell", "clean").seeds_path.write_text("9 7 8")
    with pytest.raises(ValueError, match=r"there is no demonstration in its scene \(seed 5\)"):
        compute_returns(config_for(root))


def test_the_command_computes_them_and_shows_a_table_and_reads_each_file_once_to_hash_it(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []
    monkeypatch.setattr("rl.returns.computing._digest", lambda path: (hashed.append(path), b"known")[1])
    arguments = [f"demonstrations.root={root}", "env.tasks=[click_bell]", "demonstrations.episodes_per_task=3"]
    assert returns.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "6 episodes, 6 computed now" in shown
    assert "disturbed" in shown
    assert hashed
    assert len(hashed) == len(set(hashed))
    with pytest.raises(SystemExit):
        returns.main([*arguments, "returns.failures=[expert]"])

"""Demonstrations of every format through the one reader: what is read, how folders are found, what is refused."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from configs.schema import Config, DemonstrationsConfig, EnvConfig
from envs.demonstrations import (
    SPLITS,
    CorruptDemonstration,
    EpisodeReference,
    dataset_hash,
    episode_frequency,
    episode_joints,
    formats,
    list_episodes,
    read_episode,
)
from envs.demonstrations.episodes import drive_targets
from envs.experts.collection import collect, is_collected_elsewhere
from rl.experience import segments
from rl.experience.segments import DemonstrationSegments, load_segments
from tests.envs.demonstration_trees import (
    FORMATS,
    episode_of,
    write_dataset,
    write_format,
    write_legacy,
    write_xpolicylab,
)


def listed(root: Path, split: str = "all", **options: str) -> list[EpisodeReference]:
    return list_episodes(root, ["click_bell"], ["clean"], split, **options)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_reads_alike(tmp_path: Path, name: str) -> None:
    written = [episode_of(seed, actions=4 + seed) for seed in range(2)]
    write_format(name, tmp_path / "root", written)
    references = listed(tmp_path / "root")
    assert [(r.task, r.mode, r.index) for r in references] == [("click_bell", "clean", 0), ("click_bell", "clean", 1)]
    for reference, episode in zip(references, written, strict=True):
        read = read_episode(reference)
        np.testing.assert_array_equal(read.joints, episode.joints)
        np.testing.assert_array_equal(read.actions, episode.joints[1:])
        np.testing.assert_array_equal(episode_joints(reference), episode.joints)
        assert read.joints.dtype == np.float32
        assert read.instructions == episode.instructions
        for view, frames in read.images.items():
            assert frames.shape == episode.images[view].shape
            assert np.abs(frames[:-1].astype(int) - episode.images[view][:-1]).mean() < 3


@pytest.mark.parametrize("name", FORMATS)
def test_red_stays_red(tmp_path: Path, name: str) -> None:
    """RoboTwin's pictures are RGB through OpenCV without turning; a video is what it says it is."""
    write_format(name, tmp_path / "root", [episode_of(0, colour=(255, 0, 0))])
    for frames in read_episode(listed(tmp_path / "root")[0]).images.values():
        assert frames[..., 0].min() > 245
        assert frames[..., 1:].max() < 12


@pytest.mark.parametrize("name", FORMATS)
def test_arms_of_seven_joints_are_read_as_they_are(tmp_path: Path, name: str) -> None:
    write_format(name, tmp_path / "root", [episode_of(0, joints=16)])
    (reference,) = listed(tmp_path / "root")
    assert read_episode(reference).actions.shape == (6, 16)
    assert episode_joints(reference).shape == (7, 16)


def test_an_xpolicylab_file_is_read_row_by_row(tmp_path: Path) -> None:
    """Its actions are the states that follow; no picture follows the last one, so the one before is held."""
    path = write_xpolicylab(tmp_path / "click_bell" / "aloha_agilex", 12, episode_of(0), frequency=25)
    (reference,) = listed(tmp_path)
    assert (reference.path, reference.index) == (path, 12)
    episode = read_episode(reference)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(episode.joints[:-1, 7:13], file["state/right_arm_joint_states"])
        np.testing.assert_array_equal(episode.actions[:, 6:7], file["action/left_ee_joint_states"])
    np.testing.assert_array_equal(episode.images["head"][-1], episode.images["head"][-2])
    assert not np.array_equal(episode.images["head"][-2], episode.images["head"][-3])
    assert episode_frequency(reference) == 25


@pytest.mark.parametrize("stored", [["a", "b"], '["a", "b"]'])
def test_instructions_of_an_xpolicylab_file_come_in_two_forms(tmp_path: Path, stored: object) -> None:
    path = write_xpolicylab(tmp_path / "click_bell" / "aloha_agilex", 0, episode_of(0))
    with h5py.File(path, "a") as file:
        del file["instructions"]
        file["instructions"] = stored
    assert read_episode(listed(tmp_path)[0]).instructions == ("a", "b")


@pytest.mark.parametrize(
    "folder", ["click_bell/clean", "click_bell/demo_clean", "click_bell/aloha-agilex_clean_50", "click_bell/my_config"]
)
def test_a_legacy_folder_is_found_by_its_mode(tmp_path: Path, folder: str) -> None:
    write_legacy(tmp_path / folder, 0, episode_of(0))
    assert [reference.mode for reference in listed(tmp_path)] == ["clean"]
    if folder != "click_bell/my_config":
        with pytest.raises(ValueError, match=r"no demonstrations of click_bell \(randomized\)"):
            list_episodes(tmp_path, ["click_bell"], ["randomized"], "all")


def test_a_folder_of_unknown_mode_stands_for_one_mode_only(tmp_path: Path) -> None:
    write_xpolicylab(tmp_path / "RoboTwin" / "click_bell" / "aloha_agilex", 0, episode_of(0))
    assert list_episodes(tmp_path, ["click_bell"], ["randomized"], "all")[0].mode == "randomized"
    with pytest.raises(ValueError, match=r"click_bell \(clean\), click_bell \(randomized\)"):
        list_episodes(tmp_path, ["click_bell"], ["clean", "randomized"], "all")


def test_of_several_robots_one_must_be_named(tmp_path: Path) -> None:
    for robot in ("aloha_agilex", "piper"):
        write_xpolicylab(tmp_path / "demo_clean" / "click_bell" / robot, 0, episode_of(0))
    with pytest.raises(ValueError, match=r"demonstrations\.embodiment to one of aloha_agilex, piper"):
        listed(tmp_path)
    (reference,) = listed(tmp_path, embodiment="aloha-agilex")
    assert reference.path.parents[1].name == "aloha_agilex"


def test_without_splits_of_its_own_a_folder_is_split_by_index(tmp_path: Path) -> None:
    for index in range(30):
        path = tmp_path / "click_bell" / "clean" / "data" / f"episode{index}.hdf5"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    split = {name: [reference.index for reference in listed(tmp_path, name)] for name in SPLITS}
    assert sorted(index for indices in split.values() for index in indices) == list(range(30))
    assert 2 <= len(split["validation"]) <= 4
    assert 2 <= len(split["test"]) <= 4
    fewer = list_episodes(tmp_path, ["click_bell"], ["clean"], "train", fractions=(0.0, 0.0))
    assert len(fewer) == 30


def test_tasks_without_any_demonstration_are_named(tmp_path: Path) -> None:
    write_legacy(tmp_path / "click_bell" / "clean", 0, episode_of(0))
    with pytest.raises(ValueError, match=r"no demonstrations of lift_pot \(clean\) in .*make demos"):
        list_episodes(tmp_path, ["click_bell", "lift_pot"], ["clean"], "all")


@pytest.mark.parametrize("damage", ["truncated", "no camera", "no instructions", "short", "no state"])
def test_a_damaged_xpolicylab_file_is_named(tmp_path: Path, damage: str) -> None:
    path = write_xpolicylab(tmp_path / "click_bell" / "aloha_agilex", 0, episode_of(0))
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-900])
    else:
        with h5py.File(path, "a") as file:
            if damage == "no camera":
                file.move("vision/cam_left_wrist", "vision/cam_third_view")
            elif damage == "no instructions":
                file["instructions"][()] = "[]"
            elif damage == "no state":
                del file["state"]
            else:
                pictures = file["vision/cam_head/colors"][:-2]
                del file["vision/cam_head/colors"]
                file["vision/cam_head/colors"] = pictures
    with pytest.raises(CorruptDemonstration, match=r"episode_0000000\.hdf5.*download it again") as error:
        read_episode(listed(tmp_path)[0])
    if damage == "no camera":
        assert "no pictures of cam_left_wrist; it has cam_head, cam_right_wrist, cam_third_view" in str(error.value)


def test_targets_follow_from_states_and_actions() -> None:
    path = np.arange(10, dtype=np.float32).reshape(5, 2)
    np.testing.assert_array_equal(drive_targets(path[:-1], path[1:]), path)
    np.testing.assert_array_equal(drive_targets(path[[0, 1, 1]], path[[1, 1, 1]]), path[[0, 1, 1, 1]])
    np.testing.assert_array_equal(drive_targets(path, path), path)
    measured = path + 0.1
    np.testing.assert_array_equal(drive_targets(measured[:-1], path[1:])[1:], path[1:])


@pytest.mark.parametrize("name", FORMATS)
def test_segments_come_from_every_format(tmp_path: Path, name: str) -> None:
    written = [episode_of(seed) for seed in range(4)]
    write_format(name, tmp_path / "root", written)
    settings = settings_of(tmp_path / "root")
    source = load_segments(settings, "train", horizon=4, action_dim=14)
    train = [reference.index for reference in listed(tmp_path / "root", "train")]
    assert len(source) == len(train) * 6
    segment = source[6 + 4]
    assert segment.episode == f"click_bell/clean/{train[1]}"
    np.testing.assert_array_equal(segment.chunk[:2], written[train[1]].joints[5:7])
    assert segment.weight.tolist() == [1, 1, 0, 0]
    assert segment.instruction == f"press bell {train[1]}"


def test_a_policy_of_another_size_is_refused(tmp_path: Path) -> None:
    write_format("legacy", tmp_path / "root", [episode_of(seed, joints=16) for seed in range(3)])
    with pytest.raises(ValueError, match=r"have 16 joints and grippers, the backbone .* has 14"):
        load_segments(settings_of(tmp_path / "root"), "train", horizon=4, action_dim=14)


def test_robots_of_different_sizes_do_not_mix(tmp_path: Path) -> None:
    for index, joints in enumerate((14, 16)):
        write_legacy(tmp_path / "click_bell" / "clean", index, episode_of(index, joints=joints))
    with pytest.raises(ValueError, match=r"episode0\.hdf5 has 14 .*episode1\.hdf5 has 16"):
        DemonstrationSegments(listed(tmp_path), horizon=4, stride=1)


def test_few_episodes_are_kept_in_memory_where_they_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_format("legacy", tmp_path, [episode_of(seed) for seed in range(3)])
    reads: list[int] = []

    def counted(reference: EpisodeReference) -> object:
        reads.append(reference.index)
        return read_episode(reference)

    monkeypatch.setattr(segments, "read_episode", counted)
    one = sum(frames.nbytes for frames in episode_of(0).images.values())
    monkeypatch.setattr(segments, "EPISODE_MEMORY_BYTES", 2 * one)
    source = DemonstrationSegments(listed(tmp_path), horizon=4, stride=6)
    for index in (0, 1, 0, 2, 0, 1):
        assert source[index].start == 0
    assert reads == [0, 1, 2, 1]


def test_a_collection_leaves_the_demonstrations_of_others_alone(tmp_path: Path) -> None:
    write_legacy(tmp_path / "official" / "click_bell" / "demo_clean", 0, episode_of(0))
    write_dataset(tmp_path / "dataset", [episode_of(0)])
    for root in (tmp_path / "official", tmp_path / "dataset"):
        assert is_collected_elsewhere(root)
        with pytest.raises(ValueError, match="not collected here"):
            collect(DemonstrationsConfig(root=str(root)), EnvConfig())
    assert not is_collected_elsewhere(tmp_path / "new")


def test_the_hash_sees_the_frames_of_a_dataset(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", [episode_of(0)])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    digest = dataset_hash(listed(tmp_path / "a"))
    assert dataset_hash(listed(tmp_path / "b")) == digest
    (video,) = (tmp_path / "b" / "videos" / "observation.images.left_camera").rglob("*.mp4")
    video.write_bytes(video.read_bytes() + b"x")
    assert dataset_hash(listed(tmp_path / "b")) != digest


def settings_of(root: Path) -> Config:
    settings = Config()
    settings.demonstrations.root, settings.env.tasks = str(root), ["click_bell"]
    return settings


ROWS_FORMAT = """
import json
import numpy as np
from envs.demonstrations.episodes import Episode, EpisodeReference


class RowsFormat:
    name = "rows"

    def recognises(self, root):
        return (root / "rows.json").exists()

    def references(self, root, tasks, modes, embodiment):
        stored = json.loads((root / "rows.json").read_text())
        return [
            EpisodeReference(root / "rows.json", task, mode, index, None, self.name, index)
            for task in tasks for mode in modes for index in range(len(stored.get(task, ())))
        ]

    def joints(self, reference):
        stored = json.loads(reference.path.read_text())
        return np.array(stored[reference.task][reference.row], np.float32)

    def read(self, reference):
        joints = self.joints(reference)
        black = np.zeros((len(joints), 4, 4, 3), np.uint8)
        images = {name: black for name in ("head", "left_wrist", "right_wrist")}
        return Episode(images, joints, self.instructions(reference), {})

    def depths(self, reference):
        return {}, {}

    def instructions(self, reference):
        return ("do " + reference.task,)

    def frequency(self, reference):
        return 5.0

    def files(self, reference):
        return (reference.path,)

    def advice(self, root):
        return "add it to rows.json"


FORMAT = RowsFormat()
"""


@pytest.fixture
def added_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose modules count as formats too."""
    folder = tmp_path / "formats"
    folder.mkdir()
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(folder)])
    formats.known_formats.cache_clear()
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        del sys.modules[name]
    formats.known_formats.cache_clear()


def test_a_format_is_one_file(added_formats: Path, tmp_path: Path) -> None:
    (added_formats / "rows.py").write_text(ROWS_FORMAT)
    root = tmp_path / "root"
    root.mkdir()
    (root / "rows.json").write_text('{"click_bell": [[[0, 1], [2, 3]], [[4, 5], [6, 7], [8, 9]]]}')
    references = listed(root)
    assert [(reference.index, reference.format) for reference in references] == [(0, "rows"), (1, "rows")]
    assert read_episode(references[1]).actions.tolist() == [[6, 7], [8, 9]]
    assert read_episode(references[1]).instruction == "do click_bell"
    assert episode_joints(references[0]).tolist() == [[0, 1], [2, 3]]
    assert episode_frequency(references[0]) == 5
    assert len(dataset_hash(references)) == 64
    assert is_collected_elsewhere(root)
    with pytest.raises(ValueError, match=r"lift_pot \(clean\) in .*: add it to rows\.json"):
        list_episodes(root, ["lift_pot"], ["clean"], "all")


def test_two_formats_of_one_name_are_refused(added_formats: Path) -> None:
    (added_formats / "rows.py").write_text(ROWS_FORMAT.replace('"rows"', '"legacy"', 1))
    with pytest.raises(ValueError, match=r"two modules .* have a format of the name 'legacy'"):
        formats.known_formats()


def test_helpers_are_no_formats() -> None:
    assert sorted(formats.known_formats()) == sorted(FORMATS)


def test_a_root_may_hold_several_formats_but_not_of_one_task(tmp_path: Path) -> None:
    write_legacy(tmp_path / "lift_pot" / "clean", 0, episode_of(0))
    write_xpolicylab(tmp_path / "demo_clean" / "click_bell" / "piper", 0, episode_of(1))
    both = list_episodes(tmp_path, ["lift_pot", "click_bell"], ["clean"], "all")
    assert [(reference.task, reference.format) for reference in both] == [
        ("lift_pot", "legacy"),
        ("click_bell", "xpolicylab"),
    ]
    write_xpolicylab(tmp_path / "lift_pot" / "clean", 0, episode_of(0))
    with pytest.raises(ValueError, match=r"holds lift_pot \(clean\) in several formats: legacy, xpolicylab"):
        list_episodes(tmp_path, ["lift_pot"], ["clean"], "all")

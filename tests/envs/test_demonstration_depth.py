"""Depth pictures and cameras in demonstrations: exact in every format that we write, and never in the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from configs.schema import DemonstrationsConfig, EnvConfig
from envs.demonstrations import CorruptDemonstration, Episode, list_episodes, read_episode
from envs.demonstrations.episodes import checked_depths
from envs.demonstrations.formats.legacy import FORMAT, _read_depth, _write_depth
from envs.demonstrations.formats.lerobot.rows import read_table
from envs.experts.collection import collect
from envs.simulator import CAMERAS, CameraTrack, SimulatorSpec
from launch import convert
from tests.envs.demonstration_trees import SIZES, episode_of, with_depth, write_dataset, write_format, write_legacy
from tests.envs.lerobot_trees import info_of, listed

EPISODE = with_depth(episode_of(0))
FOLDER = Path("click_bell") / "clean"


def legacy_tree(root: Path) -> Path:
    return write_legacy(root / FOLDER, 0, EPISODE)


def same(read: Episode, written: Episode) -> None:
    assert set(read.depths) == set(read.cameras) == set(written.depths)
    for name, depth in written.depths.items():
        camera = read.cameras[name]
        assert read.depths[name].dtype == camera.intrinsics.dtype == camera.poses.dtype == np.float32
        assert read.depths[name].tobytes() == depth.tobytes()
        assert camera.intrinsics.tobytes() == written.cameras[name].intrinsics.tobytes()
        assert camera.poses.tobytes() == written.cameras[name].poses.tobytes()


def numbers(shape: tuple[int, ...], least: float | None = None) -> st.SearchStrategy[np.ndarray]:
    finite = st.floats(least, None, allow_nan=False, allow_infinity=False, width=32)
    return arrays(np.float32, shape, elements=finite)


@settings(max_examples=25, deadline=None)
@given(numbers((3, 2, 5), least=0.0), numbers((3, 3)), st.integers(0, 100))
def test_millimetres_give_back_every_bit(depth: np.ndarray, intrinsics: np.ndarray, seed: int) -> None:
    poses = with_depth(episode_of(0, actions=2), seed).cameras["head"].poses
    with h5py.File("unused", "w", driver="core", backing_store=False) as file:
        for name in CAMERAS:
            _write_depth(file.create_group(name), depth, CameraTrack(intrinsics, poses))
        depths, cameras = checked_depths(Path("unused"), {name: _read_depth(file[name]) for name in CAMERAS}, 3)
    for name in CAMERAS:
        assert depths[name].tobytes() == depth.tobytes()
        assert cameras[name].intrinsics.tobytes() == intrinsics.tobytes()
        assert cameras[name].poses.tobytes() == poses.tobytes()


@pytest.mark.parametrize("name", ["legacy", "lerobot"])
def test_depth_survives_the_round_trip_and_is_read_only_if_asked_for(name: str, tmp_path: Path) -> None:
    write_format(name, tmp_path / "root", [EPISODE])
    (reference,) = listed(tmp_path / "root")
    same(read_episode(reference, depth=True), EPISODE)
    plain = read_episode(reference)
    assert (plain.depths, plain.cameras) == ({}, {})
    np.testing.assert_array_equal(plain.joints, EPISODE.joints)


@pytest.mark.parametrize("name", ["legacy", "xpolicylab", "lerobot"])
def test_files_without_depth_have_none(name: str, tmp_path: Path) -> None:
    write_format(name, tmp_path / "root", [episode_of(1)])
    read = read_episode(listed(tmp_path / "root")[0], depth=True)
    assert (read.depths, read.cameras) == ({}, {})


def test_the_legacy_layout_is_robotwins(tmp_path: Path) -> None:
    with h5py.File(legacy_tree(tmp_path)) as file:
        camera = file["observation/left_camera"]
        kinds = {name: (camera[name].dtype, camera[name].shape) for name in camera if name != "rgb"}
        packing = {(camera[name].compression, camera[name].shuffle) for name in kinds}
        millimetres, extrinsic, model = (camera[name][()] for name in ("depth", "extrinsic_cv", "cam2world_gl"))
    assert kinds == {
        "depth": (np.float64, (7, 32, 32)),
        "intrinsic_cv": (np.float32, (7, 3, 3)),
        "extrinsic_cv": (np.float32, (7, 3, 4)),
        "cam2world_gl": (np.float32, (7, 4, 4)),
    }
    assert packing == {("gzip", True)}
    np.testing.assert_allclose(millimetres, 1000.0 * EPISODE.depths["left_wrist"])
    ahead = model @ [0, 0, -1, 1]  # OpenGL's camera looks along -z, OpenCV's along z
    np.testing.assert_allclose(extrinsic @ ahead[..., None], np.broadcast_to([[0], [0], [1]], (7, 3, 1)), atol=1e-5)


def damage_legacy(path: Path, damage: str) -> None:
    with h5py.File(path, "a") as file:
        camera = file["observation/left_camera"]
        name = {"poses": "cam2world_gl", "zoom": "intrinsic_cv"}.get(damage, "depth")
        values = camera[name][()]
        del camera[name]
        if damage == "absent":
            return
        change: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "short": lambda stored: stored[:-1],
            "flat": lambda stored: stored[:, 0],
            "small": lambda stored: stored[:, 1:],
            "poses": lambda stored: stored[:, :3],
            "nan": lambda stored: np.where(stored > 1500, np.nan, stored),
            "negative": lambda stored: stored - 1.0,
            "text": lambda stored: np.full(stored.shape, b"x"),
            "zoom": lambda stored: stored * np.arange(1, 8, dtype=np.float32)[:, None, None],
        }
        camera[name] = change[damage](values)


REASONS = {
    "short": r"left_wrist depth pictures \(float64 \[6, 32, 32\]\) are not finite numbers of shape \[7, any, any\]",
    "flat": r"left_wrist depth pictures .* shape \[7, any, any\]",
    "small": r"left_wrist depth pictures are \[7, 31, 32\], but its pictures \[7, 32, 32\]",
    "poses": r"left_wrist poses .* shape \[7, 4, 4\]",
    "nan": r"left_wrist depth pictures .* are not finite numbers",
    "negative": "left_wrist depth pictures have values below 0",
    "text": "unreadable or incomplete",
    "zoom": "left_wrist intrinsics change",
    "absent": "unreadable or incomplete .*depth",
}


@pytest.mark.parametrize("damage", REASONS)
def test_damaged_depth_is_named_and_hinders_nobody_else(damage: str, tmp_path: Path) -> None:
    path = legacy_tree(tmp_path)
    damage_legacy(path, damage)
    (reference,) = listed(tmp_path)
    with pytest.raises(CorruptDemonstration, match=rf"episode0\.hdf5.*{REASONS[damage]}"):
        read_episode(reference, depth=True)
    if damage != "small":  # for which the pictures would have to be decoded
        with pytest.raises(CorruptDemonstration, match=r"episode0\.hdf5"):
            FORMAT.check(path)
    np.testing.assert_array_equal(read_episode(reference).joints, EPISODE.joints)


def test_a_wrong_byte_in_compressed_depth_is_named(tmp_path: Path) -> None:
    path = legacy_tree(tmp_path)
    with h5py.File(path) as file:
        chunk = file["observation/head_camera/depth"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(CorruptDemonstration, match=r"episode0\.hdf5"):
        read_episode(listed(tmp_path)[0], depth=True)


def test_a_dataset_describes_depth_as_lerobot_describes_arrays(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_dataset(root, [EPISODE, with_depth(episode_of(1, actions=4), 1)])
    same(read_episode(listed(root)[1], depth=True), with_depth(episode_of(1, actions=4), 1))
    features = info_of(root)["features"]
    size = list(SIZES["head"])
    assert features["observation.depth.head_camera"] == {
        "dtype": "float32",
        "shape": size,
        "names": ["height", "width"],
    }
    assert features["observation.pose.left_camera"]["shape"] == [4, 4]
    assert features["observation.intrinsics.right_camera"]["shape"] == [3, 3]
    schema = pq.read_schema(root / "data/chunk-000/file-000.parquet")
    assert set(schema.names) == {key for key, feature in features.items() if feature["dtype"] != "video"}
    kind = schema.field("observation.depth.head_camera").type
    assert str(kind.value_type.value_type) == "float"
    stats = json.loads((root / "meta" / "stats.json").read_text())
    depths = np.concatenate([read_episode(one, depth=True).depths["head"] for one in listed(root)])
    np.testing.assert_allclose(stats["observation.depth.head_camera"]["mean"], [[depths.mean()]], rtol=1e-5)
    assert stats["observation.depth.head_camera"]["count"] == [len(depths)]
    assert np.shape(stats["observation.pose.head_camera"]["std"]) == (4, 4)


@pytest.mark.parametrize("damage", ["absent", "sizes", "numbers"])
def test_damaged_depth_of_a_dataset_is_named(damage: str, tmp_path: Path) -> None:
    write_dataset(tmp_path / "root", [EPISODE])
    path = tmp_path / "root/data/chunk-000/file-000.parquet"
    table = read_table(path, pq.read_schema(path).names)
    key = "observation.depth.left_camera"
    rows = table[key].to_pylist()
    rows[2] = rows[2][1:] if damage == "sizes" else rows[2]
    values = [0.5] * len(rows) if damage == "numbers" else rows
    changed = table.drop_columns([key])
    pq.write_table(changed if damage == "absent" else changed.append_column(key, [values]), path)
    reason = {"absent": "no column", "sizes": "matrices of one size", "numbers": "matrices of one size"}[damage]
    (reference,) = listed(tmp_path / "root")
    with pytest.raises(CorruptDemonstration, match=rf"file-000\.parquet.*{reason}"):
        read_episode(reference, depth=True)
    np.testing.assert_array_equal(read_episode(reference).joints, EPISODE.joints)


def test_a_dataset_has_depth_of_all_episodes_or_of_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"observation\.depth\.head_camera has shape none, but \(48, 64\)"):
        write_dataset(tmp_path / "root", [EPISODE, episode_of(1)])


def test_a_conversion_carries_depth_over(tmp_path: Path) -> None:
    legacy_tree(tmp_path / "a")
    convert.main(
        [f"demonstrations.root={tmp_path / 'a'}", f"convert.output={tmp_path / 'b'}", "env.tasks=[click_bell]"]
    )
    same(read_episode(listed(tmp_path / "b")[0], depth=True), EPISODE)


@pytest.mark.render
def test_a_collection_holds_the_depth_of_the_simulator_and_does_not_mix(tmp_path: Path) -> None:
    """What was collected before there was depth has records without it."""
    env = EnvConfig(tasks=["click_bell"], depth=True, head_size=16, wrist_size=16)
    config = DemonstrationsConfig(root=str(tmp_path / "a"), episodes_per_task=1, workers=1)
    assert collect(config, env).complete
    (reference,) = list_episodes(tmp_path / "a", ["click_bell"], ["clean"], "all")
    read = read_episode(reference, depth=True)
    assert {name: depth.shape for name, depth in read.depths.items()} == dict.fromkeys(CAMERAS, (len(read) + 1, 16, 16))
    assert 0.5 < read.depths["head"].max() < 2.0
    assert collect(config, env).written == 0
    with pytest.raises(ValueError, match=r"'depth': True.*not.*'depth': False"):
        collect(config, replace(env, depth=False))


def test_an_old_record_means_no_depth(tmp_path: Path) -> None:
    config = DemonstrationsConfig(root=str(tmp_path), episodes_per_task=2, workers=1)
    env, spec = EnvConfig(tasks=["fine"]), SimulatorSpec("tests.envs.misbehaving:MisbehavingSimulator")
    collect(config, env, spec=spec)
    path = tmp_path / "fine" / "clean" / "collection.json"
    record = json.loads(path.read_text())
    assert record["settings"].pop("depth") is False
    path.write_text(json.dumps(record))
    assert collect(config, env, spec=spec).written == 0
    with pytest.raises(ValueError, match=r"'depth': False.*not.*'depth': True"):
        collect(config, replace(env, depth=True), spec=spec)

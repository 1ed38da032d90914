"""The real `launch.pretrain` on a handful of small, made-up episodes."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from configs.pretraining import UNREAD
from configs.schema import WAMConfig
from envs.demonstrations import split_of
from envs.demonstrations.formats.legacy import Folder, write_episode
from launch import evaluate, pretrain
from launch.shell.cli import load_config
from policies.backbones import describe
from policies.backbones.checkpoint_files import MODEL_FILE, VAE_FILE
from policies.backbones.tiny.checkpoint import save_wam
from tests.policies.small_wam import small_config, small_wam

SMALL = (
    "env.tasks=[click_bell]",
    "pretrain.vae.base_dim=4",
    "pretrain.vae.steps=2",
    "pretrain.vae.batch=1",
    "pretrain.video.layers=1",
    "pretrain.video.heads=2",
    "pretrain.video.head_dim=24",
    "pretrain.video.ffn_dim=32",
    "pretrain.action.layers=1",
    "pretrain.action.hidden=16",
    "pretrain.action.heads=1",
    "pretrain.action.ffn_dim=16",
    "pretrain.video_steps=2",
    "pretrain.action_steps=2",
    "pretrain.batch=4",
)


@pytest.mark.parametrize("stage", ["save_vae", "Clips.save", "save_file"])
def test_a_file_that_a_full_disk_cut_is_no_finished_stage(
    stage: str, demonstrations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file the disk cannot take: the same call writes it later."""
    owner, _, name = {
        "save_vae": "policies.backbones.weights.save_vae",
        "Clips.save": "policies.backbones.clips.Clips.save",
        "save_file": "safetensors.torch.save_file",
    }[stage].rpartition(".")
    arguments = [*SMALL, f"demonstrations.root={demonstrations}", f"pretrain.output={tmp_path / 'out'}"]

    def cut(*arguments: object, **options: object) -> None:
        (path,) = (one for one in arguments if isinstance(one, Path))
        (path / VAE_FILE if path.is_dir() else path).write_bytes(b"cut")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(f"{owner}.{name}", cut)
        pretrain.main(arguments)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.read_bytes() == b"cut"]
    assert pretrain.main(arguments) == 0


@pytest.mark.parametrize(
    ("setting", "file", "told"),
    [
        ("pretrain.vae.kl_weight=0.5", "vae", "pretrain.vae.kl_weight was 0.0001 and is 0.5"),
        ("pretrain.clip_stride=3", "clips_train", "pretrain.clip_stride was 2 and is 3"),
        (
            "demonstrations.gripper_range=[0,1.1]",
            "vae",
            "demonstrations.gripper_range was [0.0, 1.0] and is [0.0, 1.1]",
        ),
        ("pretrain.batch=3", "video", "pretrain.batch was 4 and is 3"),
        ("pretrain.action_steps=3", "action", "pretrain.action_steps was 2 and is 3"),
    ],
)
def test_a_finished_stage_is_not_taken_for_one_with_other_settings(
    setting: str, file: str, told: str, finished: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The first stage whose file depends on it is named, with what differs; nothing that was trained is lost."""
    folder = Path(finished[-1].partition("=")[2])
    before = {path: path.read_bytes() for path in folder.glob("*.safetensors")}
    with pytest.raises(SystemExit):
        pretrain.main([*finished, setting])
    text = " ".join(capsys.readouterr().out.split())
    assert f"{file}.safetensors was made with other settings" in text
    assert told in text
    assert {path: path.read_bytes() for path in folder.glob("*.safetensors")} == before


def test_a_finished_stage_is_taken_where_nothing_it_depends_on_has_changed(finished: list[str], tmp_path: Path) -> None:
    """The same call, other steps of a walk, another place of the demonstrations: nothing is trained again."""
    folder = Path(finished[-1].partition("=")[2])
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    assert pretrain.main(finished) == 0
    moved = shutil.copytree(folder.parent / "demonstrations", tmp_path / "moved")
    elsewhere = [*finished, f"demonstrations.root={moved}"]
    assert pretrain.main([*elsewhere, "pretrain.action.steps=1", "pretrain.stages=[action]"]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")} == written
    assert describe(WAMConfig(checkpoint=str(folder / "checkpoint"))).action_updates == 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments of a training that is finished."""
    folder = tmp_path_factory.mktemp("finished")
    arguments = [*SMALL, f"demonstrations.root={write_demonstrations(folder)}", f"pretrain.output={folder / 'out'}"]
    assert pretrain.main(arguments) == 0
    return arguments


@pytest.fixture
def demonstrations(tmp_path: Path) -> Path:
    return write_demonstrations(tmp_path)


def write_demonstrations(parent: Path) -> Path:
    """Write two training episodes and one for validation, of noise. Return their root."""
    rng = np.random.default_rng(0)
    folder = Folder(parent / "demonstrations", "click_bell", "clean")
    wanted = {"train": 2, "validation": 1}
    seeds = [seed for seed in range(200) if _take(wanted, split_of(seed, 0.1, 0.1))]
    for index in range(len(seeds)):
        sizes = {"head": 64, "left_wrist": 32, "right_wrist": 32}
        images = {name: rng.integers(0, 256, (4, size, size, 3), dtype=np.uint8) for name, size in sizes.items()}
        folder.episode_path(index).parent.mkdir(parents=True, exist_ok=True)
        write_episode(folder.episode_path(index), images, rng.uniform(0, 1, (4, 14)).astype(np.float32))
        folder.instructions_path(index).parent.mkdir(parents=True, exist_ok=True)
        folder.instructions_path(index).write_text(json.dumps({"seen": ["press a red bell"], "unseen": []}))
    folder.seeds_path.write_text(" ".join(map(str, seeds)))
    (folder.root / "splits.json").write_text(
        json.dumps(
            {"fractions": {"validation": 0.1, "test": 0.1}}
            | {split: [s for s in seeds if split_of(s, 0.1, 0.1) == split] for split in ("train", "validation", "test")}
        )
    )
    return folder.root


def _take(wanted: dict[str, int], split: str) -> bool:
    wanted[split] = wanted.get(split, 0) - 1
    return wanted[split] >= 0


@pytest.mark.slow
def test_parts_trained_in_separate_calls_end_in_a_backbone_that_loads(
    demonstrations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from policies.backbones.tiny.checkpoint import load_frozen as load_wam

    output = tmp_path / "pretrain"
    arguments = [
        "configs/pretrain.yaml",
        "pretrain.noise=shared",
        f"demonstrations.root={demonstrations}",
        f"pretrain.output={output}",
        *SMALL,
    ]
    pretrain.main([*arguments, "pretrain.stages=[action]"])
    assert (output / "action.safetensors").exists()
    assert not (output / "checkpoint").exists()
    trained = (output / "action.safetensors").read_bytes()
    with pytest.raises(SystemExit):
        pretrain.main([*arguments, "demonstrations.gripper_range=[0,1.1]"])
    assert "vae.safetensors was made with other settings" in "".join(capsys.readouterr().out.split("\n"))
    clips = (output / "clips_train.safetensors").read_bytes()
    for name, content in {"clips_train.safetensors": clips[:-9], "curve_action.json": b"{"}.items():
        (output / name).write_bytes(content)
    pretrain.main([*arguments, "pretrain.stages=[video]"])
    assert (output / "action.safetensors").read_bytes() == trained
    damaged = {"clips_train.safetensors.damaged", "curve_action.json.damaged"}
    assert {path.name for path in output.glob("*.damaged")} == damaged
    assert (output / "clips_train.safetensors").read_bytes() == clips
    wam = load_wam(WAMConfig(checkpoint=str(output / "checkpoint")))
    assert wam.spec.action_horizon == 8
    recipe = json.loads((output / "checkpoint" / "config.json").read_text())["recipe"]
    assert set(recipe["curves"]) == {"autoencoder", "video"}
    assert len(recipe["data"]) == 64
    depth_scan = json.loads((output / "checkpoint" / "depth_scan.json").read_text())
    assert depth_scan["weights_hash"] == wam.spec.weights_hash
    assert np.isfinite(depth_scan["phases"]["all"]["relative"]).all()

    onwards = tmp_path / "onwards"
    start = f"pretrain.start_from={output / 'checkpoint'}"
    pretrain.main([*arguments, start, "pretrain.noise=independent", f"pretrain.output={onwards}"])
    assert not (onwards / "vae.safetensors").exists(), "the autoencoder came with the weights"
    assert load_wam(WAMConfig(checkpoint=str(onwards / "checkpoint"))).spec.per_frame_sigma_trained
    assert not wam.spec.per_frame_sigma_trained
    content = json.loads((onwards / "checkpoint" / "config.json").read_text())
    assert content["recipe"]["started_from"] == {"weights_hash": wam.spec.weights_hash, "recipe": recipe}

    (onwards / "video.safetensors").write_bytes(trained[:-9])
    with pytest.raises(SystemExit):
        pretrain.main([*arguments, start, "pretrain.stages=[action]", f"pretrain.output={onwards}"])
    assert (onwards / "video.safetensors").exists(), "the start's video part would have taken its place"

    action_only = tmp_path / "action_only"
    pretrain.main([*arguments, start, "pretrain.stages=[action]", f"pretrain.output={action_only}"])
    before, after = (load_file(folder / "checkpoint" / MODEL_FILE) for folder in (output, action_only))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"action"}


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["idm", "joint"])
def test_a_mixture_is_pretrained_from_a_tiny_start_and_can_be_evaluated(
    variant: str, demonstrations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The published classes in one training, whose checkpoint is a backbone like any other."""
    start, output = tmp_path / "start", tmp_path / "mixture"
    source = small_wam()
    save_wam(start, source.model, source.codec, source.statistics, small_config(), {})
    pretrain.main(
        [
            "configs/pretrain_mot.yaml",
            *(one for one in SMALL if one.partition("=")[0].removeprefix("pretrain.") not in UNREAD["mot"]),
            *("pretrain.video.layers=2", "pretrain.video.ffn_dim=96", "pretrain.video.text_dim=32"),
            "pretrain.video.text_layers=1",
            "pretrain.mot.steps=2",
            f"pretrain.mot.variant={variant}",
            f"pretrain.start_from={start}",
            f"demonstrations.root={demonstrations}",
            f"pretrain.output={output}",
        ]
    )
    model = ["wam.backbone=mot", f"wam.checkpoint={output / 'checkpoint'}"]
    assert model[0] in " ".join(capsys.readouterr().out.split())
    scan = json.loads((output / "checkpoint" / "depth_scan.json").read_text())
    assert scan["weights_hash"] == describe(WAMConfig("mot", model[1].partition("=")[2])).weights_hash
    assert np.isfinite(scan["phases"]["all"]["relative"]).all()
    with pytest.raises(SystemExit) as end:
        evaluate.main(["configs/sants.yaml", *model, "evaluation.schedules=[fixed-full,joint-10]", "--dry-run"])
    assert end.value.code == 0


def test_a_quick_training_of_a_mixture_is_smaller_and_has_a_folder_of_its_own() -> None:
    full, quick = (load_config(["configs/pretrain_mot.yaml", *more], "") for more in ([], ["run.quick=true"]))
    assert quick.pretrain.mot.steps < full.pretrain.mot.steps
    assert quick.pretrain.output == f"{full.pretrain.output}-quick"
    joint = load_config(["configs/pretrain_mot.yaml", "pretrain.mot.variant=joint"], "")
    assert joint.pretrain.output != full.pretrain.output


def test_without_demonstrations_the_message_says_how_to_get_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"demonstrations.root={tmp_path / 'none'}", f"pretrain.output={tmp_path / 'out'}", *SMALL]
    with pytest.raises(SystemExit):
        pretrain.main(["configs/pretrain.yaml", *arguments])
    assert "make demos" in " ".join(capsys.readouterr().out.split())

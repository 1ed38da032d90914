"""A value expert learns from recorded and imagined futures; the backbone stays as it is."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from configs.schema import Config
from configs.value import ValueTrainingConfig
from launch import value
from launch.shell.backbone import examine_backbones
from policies.backbones import describe
from policies.backbones.clips import Clips
from policies.backbones.tiny.model import FrozenWorldActionModel
from policies.backbones.tiny.value import load_value
from policies.catalogue import build_schedule
from policies.walk import walk
from rl.evaluation.sources import sources_of
from rl.evaluation.worker import for_each_backbone
from rl.experience.closed_loop import query_noise_seed
from rl.returns.computing import configured_returns
from rl.values.futures import Futures, context_of, load_futures
from rl.values.training import draw_batch, draw_levels, train_value
from tests.rl.values.made_up import SEEDS, STEPS, arguments_in, config_of

STARTS = len(range(0, STEPS, 2))


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return arguments_in(tmp_path_factory.mktemp("values"))


@pytest.fixture(scope="module")
def config(arguments: list[str]) -> Config:
    return config_of(arguments)


@pytest.fixture(scope="module")
def wam(config: Config) -> FrozenWorldActionModel:
    return value.backbone(config)


@pytest.fixture(scope="module")
def futures(config: Config, wam: FrozenWorldActionModel) -> Futures:
    return load_futures(config, wam, "train")


def test_every_window_has_the_returns_of_its_own_episode(config: Config, futures: Futures) -> None:
    """Two demonstrations, then the failures of both kinds in their scenes. Past the end the last return goes on."""
    episodes = configured_returns(config, "train")
    assert len(futures) == len(episodes) * STARTS == 6 * STARTS
    for row in (0, STARTS - 1, 3 * STARTS + 1, 5 * STARTS):
        one, start = episodes[int(futures.clips.episode[row])], int(futures.clips.start[row])
        wanted = one.returns[[start, min(start + 1, STEPS)]]
        np.testing.assert_array_equal(futures.returns[row].numpy(), wanted)
        assert bool(futures.succeeded[row]) == one.reference.succeeded
    assert [one.reference.kind for one in episodes] == [*["expert"] * 2, *["disturbed"] * 2, *["policy"] * 2]


def test_what_the_policy_imagined_is_imagined_again(
    config: Config, wam: FrozenWorldActionModel, futures: Futures
) -> None:
    """It was asked every eight control steps, with the noise of an evaluation."""
    assert futures.clips.start[futures.asked].tolist() == [0, 8] * 2
    assert futures.noise_seeds == [query_noise_seed(seed, query) for seed in SEEDS[:2] for query in (0, 1)]
    row = futures.clips.select(futures.asked[3:])
    alone = walk(
        wam, context_of(wam, row), build_schedule("fixed-1", wam.spec, config.schedule), [futures.noise_seeds[3]]
    )
    torch.testing.assert_close(futures.imagined[3:], alone.end.x, atol=1e-5, rtol=1e-5)


def test_walks_of_another_schedule_or_backbone_are_not_imagined_again(
    arguments: list[str], config: Config, wam: FrozenWorldActionModel
) -> None:
    """The noise of a policy's walk says nothing about what another one would have imagined from it."""
    other = config_of([*arguments, "demonstrations.failures.schedule=fixed-3"])
    with pytest.raises(ValueError, match=r"failures/policy was played with .*'fixed-1'.*, not .*'fixed-3'"):
        load_futures(other, wam, "train")
    other.value.imagined_fraction = 0.0
    assert load_futures(other, wam, "train").noise_seeds == []
    renamed = copy.copy(wam)
    renamed.spec = replace(wam.spec, weights_hash="another")
    with pytest.raises(ValueError, match=r"failures/policy was played with .*, not .*'another'"):
        load_futures(config, renamed, "train")


def test_clips_are_encoded_once_for_the_same_episodes(
    config: Config, wam: FrozenWorldActionModel, futures: Futures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl.values.futures.encode_episodes", lambda *arguments: pytest.fail("encoded again"))
    assert torch.equal(load_futures(config, wam, "train").returns, futures.returns)
    path = Path(config.value.output) / "clips_train.safetensors"
    assert len(Clips.load(path)) == len(futures)


def test_a_batch_has_recorded_futures_and_the_walks_of_the_policy(
    config: Config, wam: FrozenWorldActionModel, futures: Futures
) -> None:
    batch = draw_batch(wam, futures, config.value, Generator().manual_seed(3))
    assert batch.returns.shape == (config.value.batch, 2)
    observed = wam.spec.observed_frames
    walked = {True: futures.imagined[:, :, observed:]}
    noises = wam.initial_noise(context_of(wam, futures.clips.select(futures.asked)), futures.noise_seeds)[0]
    walked[False] = noises[:, :, observed:]
    for row in range(config.value.batch // 2, config.value.batch):
        level, own = float(batch.point.sigma_video[row, 0]), batch.point.x[row, :, observed:]
        assert level in (0.0, 1.0)
        match = (walked[level == 0.0] - own).abs().amax(dim=(1, 2, 3, 4)).argmin()
        torch.testing.assert_close(walked[level == 0.0][match], own)
        assert torch.equal(futures.returns[futures.asked[match]], batch.returns[row])


def test_levels_have_the_shares_that_were_asked_for() -> None:
    levels = draw_levels(4000, ValueTrainingConfig(clean_fraction=0.5, pure_fraction=0.2), Generator().manual_seed(0))
    assert (levels == 0).double().mean() == pytest.approx(0.5, abs=0.03)
    assert (levels == 1).double().mean() == pytest.approx(0.2, abs=0.03)


def test_imagined_futures_need_a_policy(config: Config, wam: FrozenWorldActionModel, futures: Futures) -> None:
    none = replace(futures, asked=futures.asked[:0], noise_seeds=[], imagined=futures.imagined[:0])
    with pytest.raises(ValueError, match=r"value.imagined_fraction=0.5, but no episode was played by the policy"):
        train_value(wam, none, config.value, lambda *progress: None)


def test_the_command_writes_a_value_expert_that_plans(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(arguments)
    before = (Path(config.wam.checkpoint) / "model.safetensors").read_bytes()
    assert value.main(arguments) == 0
    assert "held-out loss" in capsys.readouterr().out
    path = Path(config.value.output) / "value.safetensors"
    expert = load_value(path, value.backbone(config).spec.weights_hash)
    assert float(expert.std.min()) > 0
    assert (Path(config.wam.checkpoint) / "model.safetensors").read_bytes() == before
    named = config_of([*arguments, f"wam.value={path}"])
    planning = value.backbone(named)
    assert planning.spec.value == describe(named.wam).value, "a stored comparison is recognised by it"
    futures = load_futures(config, planning, "validation")
    context = context_of(planning, futures.clips.select(torch.tensor([0, 1])))
    schedule = build_schedule("fixed-1+plan-2-3-2", planning.spec, plan=config.plan)
    records = walk(planning, context, schedule, [1, 2]).records
    assert all(record.plan is not None and np.isfinite(record.plan.scores).all() for record in records)
    written = path.read_bytes()
    assert value.main(arguments) == 0
    assert path.read_bytes() == written
    with pytest.raises(SystemExit):
        value.main([*arguments, "value.batch=3"])
    assert "value.batch was 4 and is 3" in " ".join(capsys.readouterr().out.split())
    assert path.read_bytes() == written
    report = json.loads((path.parent / "value_report.json").read_text())
    assert report["futures"] == 3 * STARTS


def test_the_third_stage_writes_a_reader_and_leaves_the_value_expert(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(config_of(arguments).value.output)
    small = ["value.action_updates=2", "value.reader.heads=2", "value.reader.head_dim=8"]
    assert value.main([*arguments, *small, "value.stages=[value,action]"]) == 0
    assert "held-out action loss: no values" in capsys.readouterr().out
    path, written = folder / "value.safetensors", (folder / "reader.safetensors").read_bytes()
    named = [*arguments, f"wam.value={path}", f"wam.value_reader={folder / 'reader.safetensors'}"]
    reading = value.backbone(config_of(named))
    assert reading.spec == describe(config_of(named).wam)
    assert reading.spec.action_reads_values
    assert reading.spec.weights_hash != value.backbone(config_of(named[:-1])).spec.weights_hash
    assert reading.value is not None
    again = load_value(path, value.backbone(config_of(arguments)).spec.weights_hash).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in reading.value.state_dict().items())
    assert value.main([*arguments, *small, f"wam.value={path}", "value.stages=[action]"]) == 0
    assert (folder / "reader.safetensors").read_bytes() == written
    _, (problem,) = examine_backbones(config_of([*named[:-2], named[-1]]), False, None, False)
    assert problem.key == "wam.value_reader"
    assert "there is no value expert to read" in problem.message

    twin = "policies/backbones/checkpoints/tiny"
    rows = ["fixed-1+plan", "fixed-1+plan@twin", "fixed-1@twin"]
    compared = config_of([*named, f"evaluation.backbones.twin={twin}", f"evaluation.schedules=[{','.join(rows)}]"])
    specs = for_each_backbone(compared, sources_of(rows[:1] + rows[2:], {}, {"twin": twin}), describe)
    assert specs[""].action_reads_values
    assert specs[twin].value is None, "value expert and reader belong to the configured backbone"
    (problem,) = examine_backbones(compared, False, ["evaluation"], False)[1]
    assert problem.key == "evaluation.schedules"
    assert "'fixed-1+plan@twin' rates imagined futures" in problem.message


def test_a_reader_alone_needs_a_value_expert(arguments: list[str], tmp_path: Path) -> None:
    config = config_of([*arguments, "value.stages=[action]", f"value.output={tmp_path}"])
    with pytest.raises(ValueError, match=r"wam\.value is empty: name the value expert to read"):
        value.train(config)

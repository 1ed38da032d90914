"""Stage 1 with a noise level for each frame, from scratch or from trained weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from configs.pretraining import PretrainConfig, VideoExpertConfig
from configs.schema import WAMConfig
from policies.backbones import load_wam
from policies.backbones.clips import Clips
from policies.backbones.flow import conditioning_levels, shift_sigma
from policies.backbones.resuming import ResumePoint
from policies.backbones.stages import train_part
from policies.backbones.tiny.checkpoint import load_start, save_wam
from policies.backbones.tiny.training import action_loss, parts
from tests.policies.small_wam import small_config, small_wam


def clips(count: int = 16) -> Clips:
    generator = Generator().manual_seed(3)
    return Clips(
        latents=torch.randn(count, 48, 3, 6, 4, generator=generator).half(),
        depth=torch.empty(count, 0),
        joints=torch.rand(count, 14, generator=generator),
        actions=torch.rand(count, 8, 14, generator=generator),
        instruction=torch.zeros(count, dtype=torch.int64),
        episode=torch.arange(count),
        start=torch.zeros(count, dtype=torch.int64),
        instructions=["press a bell"],
    )


def test_shared_levels_draw_as_they_always_did() -> None:
    generator = Generator().manual_seed(7)
    clean = torch.rand(32, generator=generator) < 0.3
    expected = shift_sigma(torch.rand(32, generator=generator), 3.0).masked_fill(clean, 0.0)
    for noise in ("shared", "asynchronous"):
        same = Generator().manual_seed(7)
        levels = conditioning_levels(noise, 32, 2, 3.0, 0.3, same)
        assert torch.equal(levels, expected[:, None].expand(-1, 2))
        assert torch.equal(torch.rand(4, generator=same), torch.rand(4, generator=_after(generator)))


def _after(generator: Generator) -> Generator:
    copy = Generator()
    copy.set_state(generator.get_state())
    return copy


@pytest.mark.parametrize(("noise", "different"), [("independent", 1.0), ("mixed", 1 / 3)])
def test_levels_are_independent_where_the_noise_is_per_frame(noise: str, different: float) -> None:
    levels = conditioning_levels(noise, 4000, 2, 3.0, 0.3, Generator().manual_seed(0))
    assert float((levels == 0).float().mean()) == pytest.approx(0.3, abs=0.03)
    both_clean = 0.3**2
    apart = (levels[:, 0] != levels[:, 1]).float().mean()
    assert float(apart) == pytest.approx(different * (1 - both_clean), abs=0.03)
    if noise == "independent":
        assert abs(float(torch.corrcoef(levels.T)[0, 1])) < 0.05


@pytest.mark.parametrize("noise", ["shared", "independent"])
def test_the_action_branch_is_shown_frames_at_the_levels_it_is_told(
    noise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wam, config, batch = small_wam(), replace(small_config(), noise=noise), clips(64).select(torch.arange(64))
    seen: list[tuple[Tensor, Tensor]] = []
    original = wam.model.action_memory

    def remembering(x: Tensor, sigma: Tensor) -> object:
        seen.append((x, sigma))
        return original(x, sigma)

    monkeypatch.setattr(wam.model, "action_memory", remembering)
    action_loss(wam.model, batch, wam.statistics, config, Generator().manual_seed(0))
    (x, sigma) = seen[0]
    assert bool((sigma[:, 0] == sigma[:, 1]).all()) == (noise == "shared")
    assert torch.equal(x[:, :, 0], batch.latents[:, :, 0])
    error = (x - batch.latents)[:, :, 1:].square().mean((1, 3, 4)).sqrt()  # sigma |eps - x0|
    torch.testing.assert_close(error, sigma * 2**0.5, rtol=0.2, atol=1e-6)


def test_stage_one_goes_on_from_trained_weights_under_other_noise(tmp_path: Path) -> None:
    source = small_wam()
    save_wam(tmp_path / "shared", source.model, source.codec, source.statistics, small_config(), {})
    config = replace(small_config(), noise="independent", start_from=str(tmp_path / "shared"), batch=4)
    model, codec, _ = load_start(config)
    trained = load_wam(WAMConfig(checkpoint=config.start_from))
    for name, tensor in trained.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert torch.equal(codec.mean, trained.codec.mean)
    before = model.action.head.weight.detach().clone()
    part = parts(replace(config, action_steps=2))["action"]
    train_part(part, model, clips(), source.statistics, config, lambda *_: None)
    assert not torch.equal(model.action.head.weight, before)
    save_wam(tmp_path / "independent", model, codec, source.statistics, config, {})
    assert load_wam(WAMConfig(checkpoint=str(tmp_path / "independent"))).spec.per_frame_sigma_trained
    assert not trained.spec.per_frame_sigma_trained


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(small_config(), video=VideoExpertConfig(layers=1)), "missing"),
        (replace(small_config(), start_from="nowhere"), r"pretrain.start_from='nowhere'"),
    ],
)
def test_a_start_that_does_not_fit_is_named(config: PretrainConfig, message: str, tmp_path: Path) -> None:
    source = small_wam()
    save_wam(tmp_path, source.model, source.codec, source.statistics, small_config(), {})
    with pytest.raises(ValueError, match=message):
        load_start(replace(config, start_from=config.start_from or str(tmp_path)))


def test_an_interrupted_stage_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policies.backbones.optimisation.SAVE_EVERY", 3)
    monkeypatch.setattr("policies.backbones.optimisation.CURVE_EVERY", 3)
    source = small_wam()
    save_wam(tmp_path / "start", source.model, source.codec, source.statistics, small_config(), {})
    config = replace(small_config(), start_from=str(tmp_path / "start"), batch=4)
    steps = []

    def trained(point: ResumePoint, until: int) -> dict[str, Tensor]:
        def interrupt(step: int, total: int, loss: float) -> None:
            steps.append(step)
            if step == until:
                raise KeyboardInterrupt

        model, _, _ = load_start(config)
        part = parts(replace(config, action_steps=7))["action"]
        return train_part(part, model, clips(), source.statistics, config, interrupt, point)[1]

    whole = trained(ResumePoint(tmp_path / "whole", {}), until=-1)
    point = ResumePoint(tmp_path / "point", {"rate": 1})
    with pytest.raises(KeyboardInterrupt):
        trained(point, until=6)
    resumed = trained(point, until=-1)
    assert steps == [3, 6, 7, 3, 6, 6, 7]
    monkeypatch.setattr("policies.backbones.optimisation.SAVE_EVERY", 100)
    stopped = ResumePoint(tmp_path / "stopped", {}, should_stop=lambda: len(steps) == 9)
    with pytest.raises(KeyboardInterrupt):
        trained(stopped, until=-1)
    again = trained(replace(stopped, should_stop=lambda: False), until=-1)
    assert steps[7:] == [3, 6, 7]
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    with pytest.raises(ValueError, match=r"other settings \(rate was 1 and is 2\)"):
        trained(ResumePoint(tmp_path / "point", {"rate": 2}), until=-1)

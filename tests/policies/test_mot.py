"""A small mixture of transformers: trained, stopped, resumed, saved, loaded, and walked by the schedules it allows."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from configs.errors import WrongSetting
from configs.pretraining import MoTConfig, PretrainConfig, VideoExpertConfig
from configs.schema import WAMConfig
from policies.backbones import describe, load_wam
from policies.backbones.checkpoint_files import MODEL_FILE, VAE_FILE
from policies.backbones.codecs import encode_text
from policies.backbones.mot.checkpoint import load_start, save_wam
from policies.backbones.mot.model import SmallMixture
from policies.backbones.mot.spec import size_of
from policies.backbones.mot.training import measure, mixture_loss, parts
from policies.backbones.optimisation import Optimisation
from policies.backbones.published.frozen import FrozenMixture
from policies.backbones.published.layout import LAYOUTS
from policies.backbones.published.pictures import Pictures
from policies.backbones.resuming import ResumePoint
from policies.backbones.stages import train_part
from policies.backbones.tiny.checkpoint import save_wam as save_tiny
from policies.backbones.xwam.checkpoint import save_wam as save_xwam
from policies.catalogue import build_schedule
from policies.walk import walk
from tests.policies.published.small_mixture import networks, write_mixture
from tests.policies.small_wam import small_config, small_wam
from tests.policies.small_xwam import small_xwam, small_xwam_config
from tests.policies.test_stage_one import clips
from tests.policies.test_wam import observations

INSTRUCTIONS = ("press a bell", "lift the pot")


def settings(variant: str = "idm", **changes: object) -> PretrainConfig:
    mixture = MoTConfig(variant=variant, steps=7)
    small = replace(small_config(), family="mot", action_shift=5.0, batch=4, mot=mixture)
    return replace(small, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of the family `tiny`."""
    folder, source = tmp_path_factory.mktemp("tiny"), small_wam()
    save_tiny(folder, source.model, source.codec, source.statistics, small_config(), {})
    return str(folder)


@pytest.fixture(scope="module")
def saved(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> WAMConfig:
    folder = tmp_path_factory.mktemp("mot")
    torch.manual_seed(0)
    start = load_start(settings(start_from=tiny))
    assert start.codec is not None
    save_wam(folder, start.model, start.codec, measure(clips(), None), settings(), {})
    return WAMConfig(backbone="mot", checkpoint=str(folder))


@pytest.mark.parametrize("variant", ["idm", "joint"])
def test_the_loss_of_a_fixed_batch_falls(variant: str) -> None:
    torch.manual_seed(0)
    config, rows = settings(variant), clips().select(torch.arange(8))
    model, normalisation = SmallMixture(config), measure(clips(), None)
    optimisation = Optimisation(model, 40, 2e-2, 0.9)
    losses = []
    for _ in range(40):
        loss = mixture_loss(model, rows, normalisation, config, Generator().manual_seed(1))
        optimisation.step(loss)
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(("variant", "passes"), [("idm", 2), ("joint", 1)])
def test_the_variants_differ_in_the_video_that_the_action_reads(
    variant: str, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IDM shows the true future, clean in half of the rows; joint shows what is denoised."""
    config = settings(variant, conditioning_shift=5.0, clean_fraction=0.5)
    model, rows = SmallMixture(config), clips(64).select(torch.arange(64))
    seen: list[tuple[Tensor, Tensor]] = []
    original = model.imagine

    def watched(future: Tensor, sigma: Tensor, *others: object) -> object:
        seen.append((future, sigma))
        return original(future, sigma, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "imagine", watched)
    mixture_loss(model, rows, measure(clips(64), None), config, Generator().manual_seed(0))
    assert len(seen) == passes
    future, sigma = seen[-1]
    clean = sigma[:, 0] == 0
    assert 0.3 < clean.float().mean() < 0.7 if variant == "idm" else not clean.any()
    assert torch.equal(future[clean], rows.latents[clean][:, :, 1:])


def test_the_loss_of_the_action_reaches_the_video_expert_through_its_keys() -> None:
    config = settings()
    model = SmallMixture(config)
    video, both = (
        _gradient(model, replace(config, mot=replace(config.mot, action_weight=weight))) for weight in (0.0, 1.0)
    )
    assert not torch.allclose(video, both)


@pytest.mark.parametrize("variant", ["idm", "joint"])
def test_a_frozen_video_expert_stays_as_it_is(variant: str, tiny: str) -> None:
    config = settings(variant, start_from=tiny)
    config = replace(config, mot=replace(config.mot, frozen_video=True, steps=3))
    start = load_start(config)
    before = {name: tensor.clone() for name, tensor in start.model.state_dict().items()}
    train_part(parts(config)["joint"], start.model, clips(), start.normalisation, config, lambda *_: None)
    changed = {name for name, tensor in start.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[0] for name in changed} == {"action"}


def _gradient(model: SmallMixture, config: PretrainConfig) -> Tensor:
    model.zero_grad()
    mixture_loss(
        model, clips().select(torch.arange(4)), measure(clips(), None), config, Generator().manual_seed(0)
    ).backward()
    gradient = model.video.blocks[0].attn1.to_k.weight.grad
    assert gradient is not None
    return gradient.clone()


def test_an_interrupted_training_goes_on_and_ends_the_same(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policies.backbones.optimisation.SAVE_EVERY", 3)
    monkeypatch.setattr("policies.backbones.optimisation.CURVE_EVERY", 3)
    config = settings(start_from=tiny)

    def trained(point: ResumePoint, seed: int, until: int) -> dict[str, Tensor]:
        def interrupt(step: int, total: int, loss: float) -> None:
            if step == until:
                raise KeyboardInterrupt

        torch.manual_seed(seed)
        start = load_start(config)
        return train_part(
            parts(config)["joint"], start.model, clips(), measure(clips(), None), config, interrupt, point
        )[1]

    whole = trained(ResumePoint(tmp_path / "whole", {}), seed=0, until=-1)
    point = ResumePoint(tmp_path / "point", {})
    with pytest.raises(KeyboardInterrupt):
        trained(point, seed=0, until=6)
    resumed = trained(point, seed=9, until=-1)  # what the model was before does not matter
    assert whole.keys() == resumed.keys() == SmallMixture(config).state_dict().keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_checkpoint_comes_back_bit_equal_and_is_described_by_its_headers(saved: WAMConfig, tmp_path: Path) -> None:
    wam = load_wam(saved)
    assert isinstance(wam, FrozenMixture)
    assert describe(saved) == wam.spec
    assert (wam.spec.action_reads, wam.spec.video_reads_action) == ("all_keys", False)
    again = load_start(settings(start_from=saved.checkpoint))
    assert again.codec is not None
    save_wam(tmp_path, again.model, again.codec, again.normalisation, settings(), {})
    for name in (MODEL_FILE, VAE_FILE):
        assert (tmp_path / name).read_bytes() == (Path(saved.checkpoint) / name).read_bytes()
    assert all(torch.equal(wam.model.state_dict()[name], value) for name, value in again.model.state_dict().items())


@pytest.mark.parametrize("name", ["fixed-1", "fixed-full", "joint-4", "async-2-4", "sants", "noisegate", "all-fast"])
@pytest.mark.filterwarnings("ignore:schedule .noisegate. gives the future frames:RuntimeWarning")
def test_every_schedule_that_a_published_mixture_allows_walks_on_it(saved: WAMConfig, name: str) -> None:
    wam = load_wam(saved)
    schedule = build_schedule(name, wam.spec)
    schedule.check(wam.spec)
    context = wam.observe(observations(2), INSTRUCTIONS)
    chunks = wam.finish_actions(context, walk(wam, context, schedule, [1, 2], [3, 4]).end.actions)
    assert chunks.shape == (2, 8, 14)
    assert np.isfinite(chunks).all()
    assert ((chunks[..., [6, 13]] >= 0) & (chunks[..., [6, 13]] <= 1)).all()


def test_its_actions_are_differences_to_the_joints_of_the_observation(saved: WAMConfig) -> None:
    wam = load_wam(saved)
    normalisation = measure(clips(), None)
    context = wam.observe(observations(2), INSTRUCTIONS)
    chunks = wam.finish_actions(context, torch.zeros(2, 8, 14))
    expected = normalisation.actions.offset + context.joints[:, None]
    arms = [joint for joint in range(14) if joint not in (6, 13)]
    np.testing.assert_allclose(chunks[..., arms], expected.expand(2, 8, 14)[..., arms].numpy(), atol=1e-6)


def test_pictures_come_back_by_camera(saved: WAMConfig) -> None:
    wam = load_wam(saved)
    context = wam.observe(observations(2), INSTRUCTIONS)
    pictures = wam.imagined_pictures(wam.initial_noise(context, [0, 1])[0])
    assert {name: picture.shape[1:] for name, picture in pictures.items()} == {
        "head": (8, 64, 64, 3),
        "left_wrist": (8, 32, 32, 3),
        "right_wrist": (8, 32, 32, 3),
    }


def test_in_bfloat16_noise_levels_are_read_in_float32(saved: WAMConfig) -> None:
    half = load_wam(replace(saved, dtype="bfloat16"))
    assert isinstance(half, FrozenMixture)
    assert half.model.video.patch_embedding.weight.dtype == torch.bfloat16
    assert half.model.video.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
    context = half.observe(observations(2), INSTRUCTIONS)
    assert torch.isfinite(walk(half, context, build_schedule("fixed-2", half.spec), [1, 2]).end.actions).all()


def test_a_tiny_start_gives_its_video_expert_or_its_autoencoder_alone(tiny: str) -> None:
    config = settings(start_from=tiny)
    source = load_wam(WAMConfig(checkpoint=tiny))
    start = load_start(config)
    assert start.codec is not None
    assert torch.equal(start.codec.mean, source.codec.mean)
    x, sigma = torch.randn(2, 48, 2, 6, 4), torch.rand(2, 2)
    context = source.observe(observations(2), INSTRUCTIONS)
    words = start.model.words(
        encode_text(start.model.text_encoder, list(INSTRUCTIONS)), start.normalisation.normalise_states(context.joints)
    )
    text = start.model.video_text_keys(words)
    with torch.no_grad():
        same = start.model.imagine(x, sigma, text, start.model.observe(context.observed, text))[0]
        expected = source.model.imagine(x, sigma, context.text_keys, context.observed_keys)[0]
    torch.testing.assert_close(same, expected, rtol=0, atol=1e-5)
    fresh = load_start(replace(config, mot=replace(config.mot, video_from_start=False)))
    assert fresh.normalisation is None
    name = "video.blocks.0.attn1.to_q.weight"
    assert not torch.equal(fresh.model.state_dict()[name], start.model.state_dict()[name])


def test_a_start_of_another_family_or_size_is_named(tiny: str, tmp_path: Path) -> None:
    xwam = small_xwam()
    save_xwam(tmp_path, xwam.model, xwam.codec, xwam.quantities, small_xwam_config(), {})
    with pytest.raises(ValueError, match="is of the family xwam: start from one of tiny or mot"):
        load_start(settings(start_from=str(tmp_path)))
    config = settings(start_from=tiny)
    with pytest.raises(ValueError, match="does not fit the settings"):
        load_start(replace(config, video=replace(config.video, ffn_dim=64)))


def test_another_backbone_is_refused_by_name(tiny: str) -> None:
    with pytest.raises(ValueError, match=r"family tiny: use wam\.backbone=tiny"):
        describe(WAMConfig(backbone="mot", checkpoint=tiny))


OF_WAN = VideoExpertConfig(layers=2, heads=2, head_dim=24, ffn_dim=96, patch=2, text_dim=32, freq_dim=32)


@pytest.mark.parametrize("style", ["wan22", "wan22-diffusers"])
def test_stage_one_starts_from_a_plain_wan_with_names_of_either_style(style: str, tmp_path: Path) -> None:
    """Its video expert and its autoencoder are taken, trained on, saved, loaded and walked."""
    write_mixture(tmp_path / "wan", style)
    config = settings(start_from=str(tmp_path / "wan"), video=OF_WAN)
    start, original = load_start(config), networks(LAYOUTS.get(style)).state_dict()
    taken = {f"video.{name}": tensor for name, tensor in start.model.video.state_dict().items()}
    assert taken.keys() == original.keys()
    assert all(torch.equal(tensor, original[name]) for name, tensor in taken.items())
    assert start.codec is not None
    pictures = Pictures(tmp_path / "wan" / "vae", size_of(config), torch.device("cpu"), torch.float32)
    canvas = np.random.default_rng(0).integers(0, 256, (1, 1, 96, 64, 3), dtype=np.uint8)
    assert torch.equal(start.codec.encode(canvas), pictures._codec.encode(canvas))

    _, tensors = train_part(
        parts(config)["joint"], start.model, clips(), measure(clips(), None), config, lambda *_: None
    )
    assert not torch.equal(tensors["video.patch_embedding.weight"], original["video.patch_embedding.weight"])
    save_wam(tmp_path / "trained", start.model, start.codec, measure(clips(), None), config, {})
    wam = load_wam(WAMConfig(backbone="mot", checkpoint=str(tmp_path / "trained")))
    context = wam.observe(observations(1), ["press a bell"])
    assert walk(wam, context, build_schedule("fixed-1", wam.spec), [0]).actions.shape == (1, 8, 14)


def test_a_start_that_is_no_wan_of_these_sizes_is_refused_by_the_names_of_its_tensors(tmp_path: Path) -> None:
    write_mixture(tmp_path / "wan", "wan22")
    config = settings(start_from=str(tmp_path / "wan"), video=replace(OF_WAN, layers=3))
    with pytest.raises(WrongSetting, match=r"pretrain.start_from=.*does not fit wan22: .* missing \(blocks.2"):
        load_start(config)
    with pytest.raises(WrongSetting, match=r"pretrain.start_from='nowhere'"):
        load_start(settings(start_from="nowhere"))
    shutil.rmtree(tmp_path / "wan" / "vae")
    with pytest.raises(ValueError, match="Wan's autoencoder is not there"):
        load_start(replace(config, video=OF_WAN))

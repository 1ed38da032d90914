"""LingBot-VA behind the door: one set of blocks for video and action, guidance, and a robot that moves tools."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs.schema import EnvConfig, WAMConfig
from policies.backbones import describe, examine, load_wam
from policies.backbones.door import EVERYTHING, Point, Want
from policies.backbones.published.layout import LAYOUTS
from policies.backbones.published.shared_blocks import FrozenSharedBlocks, SharedContext
from policies.backbones.published.texts import TextEmbeddings, TextForm, save_embeddings
from policies.backbones.wan import KeysValues
from policies.catalogue import build_schedule
from policies.walk import walk
from rl.experience.simulators import arms_of
from tests.policies.published.shared_golden import point_of
from tests.policies.published.small_mixture import INSTRUCTIONS, observations, write_mixture

KEY, FILE = "lingbot-va", "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> WAMConfig:
    return write_mixture(tmp_path_factory.mktemp("lingbot"), KEY)


@pytest.fixture(scope="module")
def wam(written: WAMConfig) -> FrozenSharedBlocks:
    found = load_wam(written)
    assert isinstance(found, FrozenSharedBlocks)
    found.take_arms(arms_of(EnvConfig()))
    return found


@pytest.fixture(scope="module")
def context(wam: FrozenSharedBlocks) -> SharedContext:
    observed: SharedContext = wam.observe(observations(), INSTRUCTIONS)
    return observed


def point_at(wam: FrozenSharedBlocks, context: SharedContext, level: float) -> Point:
    x, actions = wam.initial_noise(context, [1, 2])
    return Point(x, actions, torch.tensor([[level, 0.4], [0.6, level]]), torch.tensor([0.7, 0.2]))


def test_a_description_is_the_one_of_the_loaded_backbone(written: WAMConfig, wam: FrozenSharedBlocks) -> None:
    spec = describe(written)
    assert spec == wam.spec
    assert (spec.latent_grid, spec.future_frames, spec.action_horizon, spec.action_dim) == ((6, 4), 2, 8, 14)
    assert (spec.video_shift, spec.action_shift, spec.action_updates, spec.reference_updates) == (5, 1, 50, 25)
    assert spec.memory_needs_forward
    assert not spec.video_reads_action
    assert (spec.acts_on, spec.history_chunks, spec.history_stride) == ("arms", 35, 1)


@pytest.mark.parametrize("name", ["fixed-1", "fixed-full", "joint-4", "sants", "noisegate", "async"])
def test_schedules_walk_on_it(wam: FrozenSharedBlocks, context: SharedContext, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a level for each frame was trained
        schedule = build_schedule(name, wam.spec)
        chunks = np.stack([one.actions for one in walk(wam, context, schedule, [1, 2], [3, 4]).records])
    assert chunks.shape == (2, 8, 14)
    assert np.isfinite(chunks).all()
    assert ((chunks[..., [6, 13]] >= 0) & (chunks[..., [6, 13]] <= 1)).all()


def test_an_action_read_from_a_memory_is_the_one_of_the_joint_forward(
    wam: FrozenSharedBlocks, context: SharedContext
) -> None:
    point = point_at(wam, context, 0.9)
    joint = wam.forward(context, point, EVERYTHING)
    kept = wam.forward(context, point, Want.ACTION_FLOW, wam.forward(context, point, Want.MEMORY).memory)
    torch.testing.assert_close(kept.action_flow, joint.action_flow, rtol=0, atol=0)
    row = torch.tensor([1])
    alone = wam.forward(context.select(row), point.select(row), EVERYTHING)
    for part in ("video_flow", "pooled", "action_flow"):
        torch.testing.assert_close(getattr(alone, part), getattr(joint, part)[row], rtol=1e-4, atol=1e-5)
    assert not joint.video_flow[:, :, 0].any()


def test_the_video_never_reads_the_action_which_reads_the_video(
    wam: FrozenSharedBlocks, context: SharedContext
) -> None:
    point = point_at(wam, context, 0.9)
    flows = wam.forward(context, point, EVERYTHING)
    moved = wam.forward(context, dataclasses.replace(point, actions=point.actions + 1), EVERYTHING)
    assert torch.equal(moved.video_flow, flows.video_flow)
    assert torch.equal(moved.pooled, flows.pooled)
    cleaner = wam.forward(context, point_at(wam, context, 0.3), EVERYTHING)
    assert not torch.allclose(cleaner.action_flow, flows.action_flow, atol=1e-3)


def test_guidance_runs_the_network_twice_and_only_for_the_velocity_of_the_video(
    wam: FrozenSharedBlocks, context: SharedContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    point, imagine = point_at(wam, context, 0.9), wam.model.imagine
    answers: list[tuple[Tensor, Tensor, KeysValues]] = []

    def counted(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor, KeysValues]:
        answers.append(imagine(*arguments, **options))
        return answers[-1]

    monkeypatch.setattr(wam.model, "imagine", counted)
    output = wam.forward(context, point, Want.VIDEO_FLOW | Want.POOLED | Want.MEMORY)
    with_text, without = answers
    guided = without[0] + 5 * (with_text[0] - without[0])
    torch.testing.assert_close(output.video_flow[:, :, 1:], guided[:, :, 1:])
    assert torch.equal(output.pooled, with_text[1].mean(dim=1))
    assert output.memory is with_text[2]
    assert not torch.allclose(with_text[0], without[0], atol=1e-3)
    wam.forward(context, point, Want.MEMORY)
    wam.forward(context, point, Want.ACTION_FLOW, output.memory)
    assert len(answers) == 3


def test_the_numbers_of_other_robots_change_nothing(tmp_path: Path) -> None:
    config = write_mixture(tmp_path, KEY)
    point = point_of(KEY, "shared")
    flows = []
    for _ in range(2):
        loaded = load_wam(config)
        assert isinstance(loaded, FrozenSharedBlocks)
        observed = loaded.observe_latents(point.x[:, :, :1], torch.zeros(2, 14), INSTRUCTIONS)
        flows.append(loaded.forward(observed, point, EVERYTHING).action_flow)
        tensors = load_file(tmp_path / FILE)
        others = [place for place in range(30) if place not in LAYOUTS.get(KEY).numbers.places]
        tensors["action_embedder.weight"][:, others] += 1
        tensors["action_proj_out.weight"][others] += 1
        unread = {f"condition_embedder_action.text_embedder.linear_{n}.bias": torch.zeros(48) for n in (1, 2)}
        save_file(tensors | unread, tmp_path / FILE)  # its own files hold these too, and it never reads them
    assert torch.equal(*flows)


def test_poses_are_relative_to_the_observation_of_every_query(wam: FrozenSharedBlocks, context: SharedContext) -> None:
    """Each query is the first of an episode to the model, whose poses are relative to its first frame."""
    actions = wam.initial_noise(context, [1, 2])[1]
    joints = context.joints.clone()
    joints[1] = 0.3
    elsewhere = dataclasses.replace(context, joints=joints)
    first, second = (wam.finish_actions(one, actions) for one in (context, elsewhere))
    np.testing.assert_array_equal(first[0], second[0])
    assert np.abs(first[1] - second[1]).max() > 1e-2


def test_pictures_are_encoded_and_come_back_by_camera(wam: FrozenSharedBlocks, context: SharedContext) -> None:
    seen = observations()
    changed = [{**one, "left_wrist": 255 - one["left_wrist"]} for one in seen]
    cells = (wam.observe(changed, INSTRUCTIONS).observed != context.observed).any(dim=(0, 1, 2))
    assert cells[:2, :2].all()  # the left wrist is above the head, on the left
    assert cells.sum() == 4
    pictures = wam.imagined_pictures(wam.initial_noise(context, [0, 1])[0])
    assert {name: picture.shape for name, picture in pictures.items()} == {
        "head": (2, 8, 64, 64, 3),
        "left_wrist": (2, 8, 32, 32, 3),
        "right_wrist": (2, 8, 32, 32, 3),
    }


def test_guidance_needs_the_features_of_the_empty_text(tmp_path: Path) -> None:
    config, layout = write_mixture(tmp_path, KEY), LAYOUTS.get(KEY)
    form = TextForm.of(layout, layout.sizes["tiny"])
    path = form.path_in(Path(config.embeddings))
    stored = TextEmbeddings(path, form)
    features = {text: stored.trimmed(text).clone() for text in INSTRUCTIONS}
    assert examine(config)[1] == []
    save_embeddings(path, form, "0" * 16, features)
    (lacking,) = examine(config)[1]
    assert "no embeddings of ''" in lacking
    assert "launch.embed" in lacking
    with pytest.raises(ValueError, match=r"no embedding.*launch\.embed"):
        load_wam(config)


def test_bfloat16_weights_compute_with_float32_levels(written: WAMConfig, wam: FrozenSharedBlocks) -> None:
    half = load_wam(dataclasses.replace(written, dtype="bfloat16"))
    assert isinstance(half, FrozenSharedBlocks)
    assert half.model.action_times.time_embedder.linear_1.weight.dtype == torch.float32
    assert half.model.video.patch_embedding.weight.dtype == torch.bfloat16
    outputs = []
    for one in (wam, half):
        observed = one.observe(observations(), INSTRUCTIONS)
        outputs.append(one.forward(observed, point_at(one, observed, 0.9), EVERYTHING))
    assert outputs[1].video_flow.dtype == outputs[1].action_flow.dtype == torch.float32
    torch.testing.assert_close(outputs[1].pooled, outputs[0].pooled, rtol=0.1, atol=0.1)


def test_libero_is_described_and_its_actions_are_refused(tmp_path: Path) -> None:
    config = write_mixture(tmp_path, "lingbot-va-libero")
    spec = describe(config)
    assert (spec.action_shift, spec.future_frames, spec.action_horizon, spec.latent_grid) == (0.05, 3, 12, (4, 8))
    assert (spec.action_dim, spec.acts_on, spec.reference_updates) == (7, "nothing here", 20)
    loaded = load_wam(config)
    with pytest.raises(ValueError, match="no robot of a suite here"):
        walk(loaded, loaded.observe(observations(), INSTRUCTIONS), build_schedule("fixed-1", spec), [1, 2])


def test_a_file_of_another_model_is_told_by_its_tensors(written: WAMConfig, tmp_path: Path) -> None:
    other = write_mixture(tmp_path, "fastwam-idm")
    with pytest.raises(ValueError, match=r"fit lingbot-va: .* surplus .*more like fastwam-idm"):
        describe(dataclasses.replace(other, backbone=KEY))
    with pytest.raises(ValueError, match=r"fit fastwam-idm: .* surplus .*more like lingbot-va"):
        describe(dataclasses.replace(written, backbone="fastwam-idm"))

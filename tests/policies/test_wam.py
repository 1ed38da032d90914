from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor
from torch.nn.functional import scaled_dot_product_attention

from configs.schema import WAMConfig
from policies.backbones import load_wam
from policies.backbones import wan as driver
from policies.backbones.checkpoint_files import CONFIG_FILE, MODEL_FILE, VAE_FILE
from policies.backbones.codecs import compose_canvas, hash_words
from policies.backbones.door import Want
from policies.backbones.flow import NOISE_SAMPLERS, add_noise
from policies.backbones.tiny.checkpoint import load_start, save_wam
from policies.backbones.tiny.model import FrozenContext, FrozenWorldActionModel
from tests.policies.points import decode, memory_at, point_at, video_forward
from tests.policies.small_wam import small_config, small_wam

READS = ("future_latents", "all_latents", "future_keys", "all_keys")


@pytest.fixture(scope="module")
def wam() -> FrozenWorldActionModel:
    return small_wam()


def observations(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {
            "head": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8),
            "left_wrist": rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
            "right_wrist": rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
            "joints": rng.uniform(0, 1, 14).astype(np.float32),
        }
        for _ in range(count)
    ]


def context_of(wam: FrozenWorldActionModel, count: int = 3) -> FrozenContext:
    return wam.observe(observations(count), ["press a bell", "lift the pot", "press the left bell"][:count])


def test_driver_equals_the_forward_of_diffusers_with_a_noise_level_per_frame(wam: FrozenWorldActionModel) -> None:
    model = wam.model.video
    x, sigma = torch.randn(2, 48, 3, 6, 4), torch.rand(2, 3)
    text = torch.randn(2, 5, 32)
    with torch.no_grad():
        expected = model(x, (1000 * sigma).repeat_interleave(24, dim=1), text).sample
        keys = driver.text_keys_values(driver.blocks_of(model), driver.text_tokens(model, text))
        ours = driver.read_flow(model, driver.run_blocks(model, x, sigma, keys), x.shape)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_observed_keys_do_not_depend_on_the_future(wam: FrozenWorldActionModel) -> None:
    context = context_of(wam)
    again = wam.model.observe(context.observed, context.text_keys)
    for (key, value), (cached_key, cached_value) in zip(again, context.observed_keys, strict=True):
        assert torch.equal(key, cached_key)
        assert torch.equal(value, cached_value)
    x, _ = wam.initial_noise(context, [1, 2, 3])
    before = [key.clone() for key, _ in context.observed_keys]
    video_forward(wam, context, x, torch.full((3,), 0.7))
    assert all(torch.equal(key, kept) for (key, _), kept in zip(context.observed_keys, before, strict=True))


def test_first_frame_causal_flow_equals_one_masked_attention(
    wam: FrozenWorldActionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of(wam)
    x, _ = wam.initial_noise(context, [1, 2, 3])
    split = video_forward(wam, context, x, torch.full((3,), 0.5)).video_flow
    observed_tokens, tokens = 24, 72

    def masked(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mask = torch.ones(query.shape[1], key.shape[1], dtype=torch.bool)
        if key.shape[1] == tokens:
            mask[:observed_tokens, observed_tokens:] = False
        return (
            scaled_dot_product_attention(
                query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
            )
            .transpose(1, 2)
            .flatten(2)
        )

    monkeypatch.setattr(driver, "attend", masked)
    sigma = torch.tensor([[0.0, 0.5, 0.5]]).expand(3, -1)
    with torch.no_grad():
        output = driver.run_blocks(wam.model.video, x, sigma, context.text_keys)
        joint = driver.read_flow(wam.model.video, output, x.shape)
    torch.testing.assert_close(joint[:, :, 1:], split[:, :, 1:], rtol=0, atol=1e-4)


@pytest.mark.parametrize("reads", READS)
def test_cached_memory_gives_the_same_action_as_reading_it_anew(reads: str) -> None:
    wam = small_wam(reads)
    context = context_of(wam)
    x, noise = wam.initial_noise(context, [4, 5, 6])
    sigma = torch.tensor([0.9, 0.5, 0.1])
    forward = decode(wam, context, video_forward(wam, context, x, sigma).memory, noise)
    direct = decode(wam, context, memory_at(wam, context, x, sigma), noise)
    np.testing.assert_array_equal(forward, direct)
    rows = torch.tensor([2, 0])
    memory = video_forward(wam, context, x, sigma).memory
    parts = [wam.select_memory(memory, rows[:1]), wam.select_memory(memory, rows[1:])]
    joined = decode(wam, context.select(rows), wam.join_memories(parts), noise[rows])
    np.testing.assert_allclose(joined, forward[rows.numpy()], atol=1e-5)


def test_cached_keys_equal_joint_attention_over_video_and_action() -> None:
    """Video queries never see action tokens; action queries see everything: one masked attention over all tokens."""
    wam = small_wam("all_keys")
    block = wam.model.action.blocks[0]
    memory = (torch.randn(2, 72, 2, 24), torch.randn(2, 72, 2, 24))
    tokens, condition = torch.randn(2, 9, 32), torch.randn(2, 32)
    with torch.no_grad():
        cached = block(tokens, condition, memory)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = block.modulation(condition)[:, None].chunk(6, dim=-1)
        query, key, value = block.attention.project(block.norm_attention(tokens) * (1 + scale) + shift)
        everyone = [torch.cat(pair, dim=1) for pair in ((torch.randn(2, 72, 2, 24), query), (memory[0], key))]
        values = torch.cat([memory[1], value], dim=1)
        mask = torch.ones(81, 81, dtype=torch.bool)
        mask[:72, 72:] = False
        joint = scaled_dot_product_attention(
            everyone[0].transpose(1, 2), everyone[1].transpose(1, 2), values.transpose(1, 2), attn_mask=mask
        )
        attended = block.attention.to_out(joint.transpose(1, 2)[:, 72:].flatten(2))
        expected = tokens + gate * attended
        expected = expected + ffn_gate * block.ffn(block.norm_ffn(expected) * (1 + ffn_scale) + ffn_shift)
    torch.testing.assert_close(cached, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("reads", ["future_latents", "all_keys"])
def test_a_row_does_not_depend_on_its_batch(reads: str) -> None:
    wam = small_wam(reads)
    context = context_of(wam)
    x, noise = wam.initial_noise(context, [7, 8, 9])
    alone, alone_noise = wam.initial_noise(context.select(torch.tensor([1])), [8])
    assert torch.equal(alone[0, :, 1:], x[1, :, 1:])
    assert torch.equal(alone_noise[0], noise[1])
    sigma = torch.tensor([0.2, 0.6, 0.9])
    batch = video_forward(wam, context, x, sigma)
    single = video_forward(wam, context.select(torch.tensor([1])), x[1:2], sigma[1:2])
    torch.testing.assert_close(single.video_flow[0], batch.video_flow[1], rtol=0, atol=1e-4)
    torch.testing.assert_close(single.pooled[0], batch.pooled[1], rtol=0, atol=1e-4)
    one = decode(wam, context.select(torch.tensor([1])), single.memory, noise[1:2])
    np.testing.assert_allclose(one[0], decode(wam, context, batch.memory, noise)[1], atol=1e-4)


@pytest.mark.parametrize("reads", READS)
def test_only_what_is_wanted_is_run(reads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory costs a video forward only where the spec says so, and an action that is given one costs none."""
    wam = small_wam(reads)
    context = context_of(wam)
    x, noise = wam.initial_noise(context, [1, 2, 3])
    original, runs = wam.model.imagine, []
    monkeypatch.setattr(wam.model, "imagine", lambda *arguments: (runs.append(1), original(*arguments))[1])
    point = point_at(wam.spec, torch.tensor([0.9, 0.5, 0.1]), x, noise)
    memory = wam.forward(context, point, Want.MEMORY).memory
    assert len(runs) == wam.spec.memory_needs_forward
    read = wam.forward(context, point, Want.ACTION_FLOW, memory).action_flow
    assert len(runs) == wam.spec.memory_needs_forward
    both = wam.forward(context, point, Want.VIDEO_FLOW | Want.ACTION_FLOW)
    assert len(runs) == 1 + wam.spec.memory_needs_forward
    torch.testing.assert_close(both.action_flow, read, rtol=0, atol=1e-5)


def test_latents_are_read_once_for_all_action_steps(wam: FrozenWorldActionModel) -> None:
    context = context_of(wam)
    x, noise = wam.initial_noise(context, [1, 2, 3])
    reader = wam.model.action.reader
    calls: list[int] = []
    handle = reader.register_forward_hook(lambda *_: calls.append(1))
    decode(wam, context, memory_at(wam, context, x, torch.full((3,), 0.5)), noise)
    handle.remove()
    assert len(calls) == 1 < wam.spec.action_updates


def test_a_latent_reading_branch_follows_the_future_it_is_shown(wam: FrozenWorldActionModel) -> None:
    context = context_of(wam)
    x, noise = wam.initial_noise(context, [1, 2, 3])
    other, _ = wam.initial_noise(context, [11, 12, 13])
    sigma = torch.full((3,), 0.1)
    first = decode(wam, context, memory_at(wam, context, x, sigma), noise)
    second = decode(wam, context, memory_at(wam, context, other, sigma), noise)
    assert np.abs(first - second).max() > 1e-4


def test_a_frame_encoded_alone_equals_the_first_latent_of_its_window(wam: FrozenWorldActionModel) -> None:
    window = np.random.default_rng(1).integers(0, 256, (1, 9, 96, 64, 3), dtype=np.uint8)
    torch.testing.assert_close(wam.codec.encode(window[:, :1]), wam.codec.encode(window)[:, :, :1])


def test_canvas_puts_the_head_on_top_of_left_and_right_wrist() -> None:
    views = [np.full((size, size, 3), value, dtype=np.uint8) for size, value in ((64, 10), (64, 20), (32, 30))]
    canvas = compose_canvas(*views)
    assert canvas.shape == (96, 64, 3)
    assert [int(canvas[at]) for at in ((0, 0, 0), (64, 0, 0), (64, 32, 0))] == [10, 20, 30]


def test_words_have_the_same_ids_in_every_process() -> None:
    ids, mask = hash_words("Press the left bell.")
    assert ids[:4].tolist() == [125, 438, 6, 341]
    assert mask.sum() == 4
    assert hash_words("press  the left bell")[0].tolist() == ids.tolist()


@given(st.sampled_from(sorted(NOISE_SAMPLERS)), st.integers(1, 40), st.integers(1, 4), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_noise_samplers_stay_in_range_and_keep_their_promise(name: str, batch: int, frames: int, seed: int) -> None:
    video, action = NOISE_SAMPLERS[name](batch, frames, 5.0, 5.0, Generator().manual_seed(seed))
    assert (video.shape, action.shape) == ((batch, frames), (batch,))
    for levels in (video, action):
        assert float(levels.min()) >= 0
        assert float(levels.max()) <= 1
    if name in ("shared", "asynchronous"):
        assert torch.equal(video, video[:, :1].expand_as(video))
    if name == "asynchronous":
        assert bool((video >= action[:, None] - 1e-6).all())


def test_independent_noise_gives_frames_different_levels() -> None:
    video, _ = NOISE_SAMPLERS["independent"](64, 2, 5.0, 1.0, Generator().manual_seed(0))
    assert abs(float(torch.corrcoef(video.T)[0, 1])) < 0.35


@given(st.floats(0, 1), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_noise_levels_interpolate_between_clean_and_noise(level: float, seed: int) -> None:
    generator = Generator().manual_seed(seed)
    clean, noise = torch.randn(2, 3, 2, 2, generator=generator), torch.randn(2, 3, 2, 2, generator=generator)
    mixed = add_noise(clean, noise, torch.full((2,), level))
    torch.testing.assert_close(mixed, (1 - level) * clean + level * noise)


def test_a_checkpoint_comes_back_and_names_what_does_not_fit(wam: FrozenWorldActionModel, tmp_path: Path) -> None:
    save_wam(tmp_path, wam.model, wam.codec, wam.statistics, small_config(), {})
    loaded = load_wam(WAMConfig(checkpoint=str(tmp_path)))
    context, reloaded = context_of(wam), context_of(loaded)
    x, _ = wam.initial_noise(context, [1, 2, 3])
    flow = video_forward(wam, context, x, torch.ones(3)).video_flow
    torch.testing.assert_close(video_forward(loaded, reloaded, x, torch.ones(3)).video_flow, flow, rtol=0, atol=0.02)
    assert loaded.spec.weights_hash != wam.spec.weights_hash
    assert not loaded.spec.per_frame_sigma_trained
    other = small_wam("all_keys")
    save_wam(tmp_path, other.model, other.codec, other.statistics, small_config(), {})
    with pytest.raises(ValueError, match=MODEL_FILE):
        load_wam(WAMConfig(checkpoint=str(tmp_path)))
    with pytest.raises(ValueError, match="make pretrain"):
        load_wam(WAMConfig(checkpoint=str(tmp_path / "nowhere")))


@pytest.fixture
def checkpoint(wam: FrozenWorldActionModel, tmp_path: Path) -> Path:
    save_wam(tmp_path, wam.model, wam.codec, wam.statistics, small_config(), {})
    return tmp_path


def flip_last_byte(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("name", [MODEL_FILE, VAE_FILE])
@pytest.mark.parametrize("damage", [flip_last_byte, lambda content: content[:1000], lambda content: b""])
def test_damaged_weights_are_not_loaded(checkpoint: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    (checkpoint / name).write_bytes(damage((checkpoint / name).read_bytes()))
    with pytest.raises(ValueError, match=rf"{checkpoint}.*{name}"):
        load_wam(WAMConfig(checkpoint=str(checkpoint)))
    with pytest.raises(ValueError, match=rf"{checkpoint}.*{name}"):
        load_start(replace(small_config(), start_from=str(checkpoint)))


def edit_description(folder: Path, edit: Callable[[dict], object]) -> None:
    content = json.loads((folder / CONFIG_FILE).read_text())
    edit(content)
    (folder / CONFIG_FILE).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda content: content["config"].update(reference_updates=7), "settings were changed after training"),
        (lambda content: content.pop("config"), "no section 'config'"),
        (lambda content: content.pop("weights_hash"), "names no weights_hash"),
    ],
)
def test_a_description_changed_by_hand_is_not_loaded(
    checkpoint: Path, edit: Callable[[dict], object], message: str
) -> None:
    edit_description(checkpoint, edit)
    with pytest.raises(ValueError, match=rf"{checkpoint}.*{message}"):
        load_wam(WAMConfig(checkpoint=str(checkpoint)))


@pytest.mark.parametrize(
    "content", [b"", b'{"config": {', b"[]", b'{"config": {"unheard_of": 1}}', b"\xff", b"[" * 9999]
)
def test_a_description_that_is_none_is_named(checkpoint: Path, content: bytes) -> None:
    (checkpoint / CONFIG_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{checkpoint / CONFIG_FILE}: "):
        load_wam(WAMConfig(checkpoint=str(checkpoint)))


def test_a_checkpoint_from_before_settings_were_hashed_loads(checkpoint: Path) -> None:
    edit_description(checkpoint, lambda content: content.pop("config_hash"))
    assert load_wam(WAMConfig(checkpoint=str(checkpoint))).spec.reference_updates == 25


def test_the_shipped_backbone_is_the_one_of_the_results() -> None:
    assert load_wam(WAMConfig()).spec.weights_hash == "3fc1c064101c81d0"

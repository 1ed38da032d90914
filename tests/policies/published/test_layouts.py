"""Layouts: their numbers, and the names of their tensors both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file

from configs.schema import WAMConfig
from policies import memory
from policies.backbones import describe, load_wam
from policies.backbones import wan as driver
from policies.backbones.published import loading
from policies.backbones.published.layout import LAYOUTS, wanted_tensors
from policies.backbones.published.loading import Found, load_networks
from policies.catalogue import build_schedule
from tests.policies.published.small_mixture import networks

PUBLISHED = {  # parameters as their authors count them: the video expert, the action expert, the word for the state
    "fastwam-idm": 4_999_787_712 + 1_020_900_366 + 61_440,
    "wan22": 4_999_787_712,
}


def save_under_its_names(folder: Path, key: str, surplus: dict[str, torch.Tensor] | None = None) -> WAMConfig:
    layout = LAYOUTS.get(key)
    model = networks(layout)
    names = layout.checkpoint_names(list(model.state_dict()))
    tensors = {names[name]: tensor.contiguous() for name, tensor in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors | (surplus or {}), folder / "model.safetensors")
    return WAMConfig(backbone=key, checkpoint=str(folder))


def loaded(config: WAMConfig) -> Any:
    return load_networks(Found.of(config), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("key", LAYOUTS.all())
def test_names_are_one_to_one_and_the_tiny_size_has_the_names_of_the_full_one(key: str) -> None:
    layout = LAYOUTS.get(key)
    tiny, full = (wanted_tensors(layout, layout.sizes[size]) for size in ("tiny", "full"))
    assert set(tiny) < set(full)
    assert {name for name in full if "blocks." not in name} == {name for name in tiny if "blocks." not in name}
    if key in PUBLISHED:
        assert sum(torch.Size(shape).numel() for shape in full.values()) == PUBLISHED[key]


def test_open_wam_has_the_networks_of_fast_wam_under_other_names(tmp_path: Path) -> None:
    beside = {"video_backbone.vae.conv1.weight": torch.zeros(2), "action_backbone.action_mean": torch.zeros(20)}
    config = save_under_its_names(tmp_path, "openwam-idm", beside)
    model, original = loaded(config), networks(LAYOUTS.get("openwam-idm"))
    stored = original.state_dict()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in model.state_dict().items())
    assert "action_backbone.blocks.0.context_attn_norm.weight" in wanted_tensors(
        LAYOUTS.get("openwam-idm"), LAYOUTS.get("openwam-idm").sizes["tiny"]
    )
    assert describe(config).action_dim == 14  # joint targets, once the arms have found them


@pytest.mark.parametrize("key", ["wan22", "wan22-diffusers"])
def test_wan_alone_is_the_model_of_diffusers_and_gives_no_actions(key: str, tmp_path: Path) -> None:
    config = save_under_its_names(tmp_path, key)
    model = loaded(config)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 48, 3, 6, 4, generator=generator)
    text = torch.randn(2, 8, 32, generator=generator)
    sigma = torch.tensor([[0.0, 0.9, 0.4], [0.2, 0.6, 0.6]])
    keys = driver.text_keys_values(driver.blocks_of(model.video), driver.text_tokens(model.video, text))
    with torch.no_grad():
        flow = driver.read_flow(model.video, driver.run_blocks(model.video, x, sigma, keys), x.shape)
        timestep = (1000 * sigma).repeat_interleave(6, dim=1)
        own = cast(torch.Tensor, model.video(x, timestep, text, return_dict=False)[0])
    torch.testing.assert_close(flow, own, rtol=1e-5, atol=1e-5)
    spec = describe(config)
    with pytest.raises(ValueError, match="action_flow"):
        build_schedule("fixed-1", spec).check(spec)
    with pytest.raises(ValueError, match="gives no actions"):
        load_wam(config)


def test_too_little_memory_is_told_before_a_tensor_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = save_under_its_names(tmp_path, "fastwam-idm")
    monkeypatch.setattr(memory, "host_memory", lambda: 2**29)
    monkeypatch.setattr(loading, "fill", lambda *_: pytest.fail("a tensor was loaded"))
    with pytest.raises(ValueError, match=r"wam.backbone=fastwam-idm needs 1\.0 GiB, and this machine .* has 0\.5 GiB"):
        loaded(config)

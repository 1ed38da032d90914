"""Which settings of `pretrain` a family reads, seen while it is built, trained and described."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from configs.fields import is_section, leaves, lies_in
from configs.pretraining import PARTS, UNREAD, MoTConfig, PretrainConfig, VAEConfig, XWAMConfig
from policies.backbones.door import WAMSpec
from policies.backbones.mot.spec import spec_of as spec_of_mot
from policies.backbones.small import small_spec
from policies.backbones.stages import Recording, train_part, trainable
from policies.backbones.xwam.spec import spec_of as spec_of_xwam
from tests.policies.small_wam import small_config
from tests.policies.test_stage_one import clips


def spec_of_tiny(config: PretrainConfig, action_dim: int, weights_hash: str) -> WAMSpec:
    return small_spec(config, action_dim, weights_hash, config.action.reads)


BY_THE_COMMAND = ("family", "stages", "output", "torch_threads", "clip_stride", "vae.episodes_per_task")
"""Read by `launch.pretrain`, whatever the family is."""

BY_A_START = ("mot.video_from_start", "mot.frozen_video")
SPECS = {"tiny": spec_of_tiny, "xwam": spec_of_xwam, "mot": spec_of_mot}


def small(family: str) -> PretrainConfig:
    """Trainings of one step, in which all that a family has is used."""
    return replace(
        small_config(),
        family=family,
        noise="asynchronous",
        vae=VAEConfig(base_dim=4, steps=1, batch=1),
        xwam=XWAMConfig(steps=1, depth_layers=1),
        mot=MoTConfig(steps=1),
        video_steps=1,
        action_steps=1,
        batch=2,
    )


def recorded_reads(config: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return a set that will hold the dotted key of every field of `config` that is read from now on."""
    seen: set[str] = set()
    sections = {id(config): ""}
    sections |= {id(value): f"{one.name}." for one in fields(config) if is_section(value := getattr(config, one.name))}

    def read(section: Any, name: str) -> Any:
        if id(section) in sections:
            seen.add(sections[id(section)] + name)
        return object.__getattribute__(section, name)

    for kind in {type(config), *(type(getattr(config, one.name)) for one in fields(config))}:
        if kind.__module__ == PretrainConfig.__module__:
            monkeypatch.setattr(kind, "__getattribute__", read, raising=False)
    return seen


@pytest.mark.parametrize("family", sorted(UNREAD))
def test_a_family_reads_every_setting_but_those_that_it_refuses(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, every = small(family), {key for key, _ in leaves(PretrainConfig())}
    seen = recorded_reads(config, monkeypatch)
    module = trainable(family)
    pictures = {name: np.zeros((9, size, size, 3), np.uint8) for name, size in SIZES.items()}
    depths = {name: np.ones(one.shape[:3], np.float32) for name, one in pictures.items()}
    episode = module.record(config, Recording(pictures, depths, np.zeros((9, 14), np.float32), "press", "click_bell"))
    module.train_codec(None, [episode], config, lambda *progress: None)
    start = module.begin(config, None)
    rows = clips()
    if module.needs_depth(config):
        rows = replace(rows, depth=torch.zeros_like(rows.latents))
    normalisation = module.measure(rows, None)
    for part in module.parts(config).values():
        train_part(part, start.model, rows, normalisation, config, lambda *progress: None)
    SPECS[family](config, 14, "")
    unread = {key for key in every if lies_in(key, UNREAD[family])}
    assert not seen & unread
    assert every - seen - unread - {*BY_THE_COMMAND, *BY_A_START} == set()


SIZES = {"head": 64, "left_wrist": 32, "right_wrist": 32}


@pytest.mark.parametrize("family", sorted(PARTS))
def test_the_parts_of_a_family_are_those_that_may_be_named(family: str) -> None:
    assert tuple(trainable(family).parts(small(family))) == PARTS[family]


@pytest.mark.parametrize("name", sorted(trainable("tiny").parts(small("tiny"))))
def test_what_a_part_ignores_does_not_change_its_training(name: str) -> None:
    """So that it may be taken from an earlier call in which only these were different."""
    config = small("tiny")
    part = trainable("tiny").parts(config)[name]
    changed = {
        "action_steps": 3,
        "video_steps": 3,
        "video_shift": 2.0,
        "conditioning_shift": 9.0,
        "clean_fraction": 0.9,
        "action": replace(config.action, hidden=16, heads=1),
    }
    other = replace(config, **{key: value for key, value in changed.items() if key in part.ignores})
    assert other != config

    def trained(settings: PretrainConfig) -> dict[str, torch.Tensor]:
        torch.manual_seed(settings.seed)
        model, rows = trainable("tiny").begin(settings, None).model, clips()
        normalisation = trainable("tiny").measure(rows, None)
        return train_part(
            trainable("tiny").parts(settings)[name], model, rows, normalisation, settings, lambda *progress: None
        )[1]

    one, two = trained(config), trained(other)
    assert all(torch.equal(one[key], two[key]) for key in one)

"""The task with two ways whose mean is a crash."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, cast

import numpy as np
import pytest

from envs.tabletop.env import TabletopEnv
from envs.tabletop.robot import ARM_ACTION, ARM_JOINTS, SIDES
from envs.tabletop.tasks.pass_post import PassPost

SEEDS = range(6)


@pytest.fixture
def env() -> TabletopEnv:
    return TabletopEnv("pass_post", render=False)


def way_round(env: TabletopEnv, seed: int, side: Literal[-1, 1]) -> np.ndarray:
    """The expert's actions [T, 14] if it takes that side."""
    env.reset(seed=seed)
    env.task.style = replace(env.task.style, detour=side)
    return np.array(list(env.task.expert(env.script())))


def play(env: TabletopEnv, seed: int, actions: np.ndarray) -> bool:
    env.reset(seed=seed)
    return bool(env.step_chunk(actions)[-1]["success"])


@pytest.mark.parametrize("seed", SEEDS)
def test_either_way_succeeds_and_their_mean_is_a_crash(env: TabletopEnv, seed: int) -> None:
    left, right = way_round(env, seed, 1), way_round(env, seed, -1)
    assert play(env, seed, left)
    assert play(env, seed, right)
    steps = min(len(left), len(right))
    assert not play(env, seed, (left[:steps] + right[:steps]) / 2)
    assert cast(PassPost, env.task).spoiled


def test_the_ways_part_within_one_chunk(env: TabletopEnv) -> None:
    """A policy that acts for eight steps on one picture has chosen when it looks again."""
    for seed in SEEDS:
        tools = []
        for side in (-1, 1):
            play(env, seed, way_round(env, seed, cast(Literal[-1, 1], side))[:8])
            assert env.task.style.arm is not None
            tools.append(env.task.arms[env.task.style.arm].tool_position)
        assert np.linalg.norm(tools[0] - tools[1]) > 0.06


def test_nothing_says_which_way(env: TabletopEnv) -> None:
    sides = {"left": 0, "right": 0}
    for seed in range(40):
        _, info = env.reset(seed=seed)
        assert not {"left", "right"} & set(info["instruction"].split())
        assert "red post" in info["instruction"]
        sides[env.style["detour"]] += 1
    assert min(sides.values()) >= 12


def test_an_open_gripper_does_not_touch(env: TabletopEnv) -> None:
    actions = way_round(env, 0, 1)
    assert env.task.style.arm is not None
    actions[:, ARM_ACTION * SIDES.index(env.task.style.arm) + ARM_JOINTS] = 1.0
    assert not play(env, 0, actions)

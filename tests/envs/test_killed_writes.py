"""Kill -9 at every write of demonstrations and manifests: a resume ends as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.schema import Config, DemonstrationsConfig, EnvConfig
from envs.demonstrations import list_episodes, read_episode
from envs.experts import collection
from envs.experts.collection import collect
from envs.robotwin import feasibility
from envs.robotwin.feasibility import find_seeds
from envs.simulator import ExpertReply, SimulatorSpec
from envs.suites import Wanted
from tests.dying import cut_off, deaths
from tests.envs.misbehaving import MisbehavingSimulator
from tests.envs.robotwin.scripted import scripted_settings, write_scripted_root
from tests.envs.test_demonstrations import tree_of

Settle = Callable[[Any, int, ExpertReply], None]
SPEC = SimulatorSpec("tests.envs.misbehaving:MisbehavingSimulator")
ENV = EnvConfig(tasks=["fine"])


STYLE = {"episode_info": {"{A}": "001_bell/base0"}, "instructions": {"unseen": "ring it"}}


def play_here(queues: Sequence[Any], spec: object, env: object, workers: int, settle: Settle, stop: object) -> None:
    """What `play_experts` does, without processes."""
    for queue in queues:
        while (seed := queue.take()) is not None:
            reply = MisbehavingSimulator().demonstrate(task="fine", mode=queue.mode, seed=seed)
            settle(queue, seed, replace(reply, style={**reply.style, **STYLE}))


def nothing(folder: Path) -> None:
    """There is nothing to prepare."""


def test_demonstrations_are_collected_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "play_experts", play_here)

    def write(folder: Path) -> None:
        config = DemonstrationsConfig(root=str(folder), episodes_per_task=2)
        assert collect(config, ENV, spec=SPEC).complete

    write(undisturbed := tmp_path / "undisturbed")
    episode = next(undisturbed.rglob("*.hdf5")).stat().st_size
    for folder in (*deaths(tmp_path, nothing, write), *cut_off(tmp_path, nothing, write, (0, 100, episode // 2))):
        for reference in list_episodes(folder, ["fine"], ["clean"], "all") if any(folder.rglob("seed.txt")) else ():
            read_episode(reference)
        write(folder)
        assert tree_of(folder) == tree_of(undisturbed)


def test_a_manifest_is_found_as_if_nothing_had_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feasibility, "play_experts", play_here)
    root = write_scripted_root(tmp_path / "RoboTwin")

    def write(folder: Path) -> None:
        env = scripted_settings(root, Config()).env
        env.options.manifests = str(folder)
        (reached,) = find_seeds(env, {"validation": Wanted(0, 2)}, workers=1)
        assert reached.complete

    write(undisturbed := tmp_path / "undisturbed")
    for folder in (*deaths(tmp_path, nothing, write), *cut_off(tmp_path, nothing, write, (0, 500))):
        write(folder)
        assert tree_of(folder) == tree_of(undisturbed)

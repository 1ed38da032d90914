"""The instructions that a run can meet: those of its demonstrations, and those of every episode that it plays."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.schema import Config
from envs.demonstrations import list_episodes, read_episode
from envs.instructions import demonstrated_instructions, played_instructions
from tests.envs.demonstration_trees import FORMATS, episode_of, write_format


@pytest.mark.parametrize("name", FORMATS)
def test_the_first_wording_of_every_demonstration(name: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_format(name, root, [episode_of(seed) for seed in range(3)])
    config = Config()
    config.env.tasks, config.demonstrations.root = ["click_bell"], str(root)
    episodes = list_episodes(root, ["click_bell"], ["clean"], "all")
    assert demonstrated_instructions(config) == {read_episode(one).instruction for one in episodes}


def test_without_a_list_the_simulator_begins_every_episode() -> None:
    config = Config()
    config.env.simulator, config.env.tasks = "tests.toy_simulator:toy_spec", ["click_bell", "lift_pot"]
    config.validation.first_seed, config.validation.episodes_per_task = 6, 1
    config.evaluation.first_seed, config.evaluation.episodes_per_task = 7, 3  # the toy has no seed 7
    done: list[int] = []
    assert played_instructions(config, ["validation"], done.append) == {"a coarse move"}
    assert done == [1, 2]
    assert played_instructions(config, ["validation", "evaluation"]) == {"a coarse move", "a fine move"}

"""Failures and their returns through the commands, on the real simulator and the real tiny backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from envs.demonstrations import list_episodes, read_episode
from envs.demonstrations.failures import list_failures
from launch import collect, returns
from launch.shell.cli import load_config
from policies.backbones import load_wam
from policies.catalogue import build_schedule
from rl.experience.closed_loop import play
from rl.experience.records import EpisodeTask
from rl.experience.simulators import make_simulators
from rl.returns.computing import configured_returns


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("demonstrations.failures.schedule=fixed-5+plan", "has to be trained, or has a planner"),
        ("demonstrations.failures.policy=2", "2 scenes are more than there are demonstrations"),
    ],
)
def test_what_cannot_be_collected_is_said_before_anything_is(
    argument: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "demonstrations"
    arguments = [f"demonstrations.root={root}", "demonstrations.episodes_per_task=1"]
    with pytest.raises(SystemExit):
        collect.main([*arguments, "demonstrations.failures.policy=1", argument])
    assert reason in " ".join("".join(capsys.readouterr()).split())
    assert not root.exists()


@pytest.mark.render
@pytest.mark.slow
def test_from_the_simulator_to_returns(tmp_path: Path) -> None:
    """One demonstration of `click_bell`; in its scene one episode of the disturbed expert and one of the policy."""
    root = tmp_path / "demonstrations"
    arguments = [f"demonstrations.root={root}", "env.tasks=[click_bell]", "demonstrations.episodes_per_task=1"]
    arguments += ["demonstrations.workers=1", "demonstrations.failures.disturbed=1", "demonstrations.failures.policy=1"]
    assert collect.main(arguments) == 0
    (demonstration,) = list_episodes(root, ["click_bell"], ["clean"], "all")
    disturbed, policy = list_failures(root, ["click_bell"], ["clean"])
    assert (disturbed.kind, policy.kind) == ("disturbed", "policy")
    assert demonstration.seed == disturbed.seed == policy.seed
    episodes = {one.kind: read_episode(one) for one in (demonstration, disturbed, policy)}
    for episode in episodes.values():
        np.testing.assert_array_equal(episode.joints[0], episodes["expert"].joints[0])
        pictures = episode.images["head"]
        difference = np.abs(pictures[0].astype(int) - episodes["expert"].images["head"][0])
        assert difference.mean() < 3, "it starts in the same scene"
        assert (pictures[-1] != pictures[0]).any()
    assert not np.array_equal(episodes["disturbed"].joints[:20], episodes["expert"].joints[:20])

    config = load_config(arguments, "")
    wam, simulators = load_wam(config.wam), make_simulators(config.env, 1)
    with simulators[0]:
        task = EpisodeTask("click_bell", "clean", policy.seed)
        (record,) = play(wam, build_schedule("fixed-5", wam.spec, config.schedule), simulators, [task])
    assert record.steps == len(episodes["policy"]), "it is the episode of an evaluation"
    assert (record.outcome == "success") == policy.succeeded

    assert returns.main(arguments) == 0
    for one in configured_returns(config):
        assert one.returns.shape == (len(episodes[one.reference.kind]) + 1,)
        assert np.isfinite(one.returns).all()
        if one.reference.succeeded:
            assert one.rewards[-1] == pytest.approx(8 / 16, abs=0.15), "the goal itself, but for motion"

"""Groups: one scene and instruction, other noise; played by teams of processes that overlap, crash and are re-run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from configs.schema import EnvConfig, GroupsConfig, RewardConfig
from envs.process.owner import SimulatorProcess
from envs.simulator import SimulatorSpec
from policies.catalogue import build_schedule
from policies.schedule import Schedule
from policies.schedules.noisegate import GateTrace
from rl.collectors.groups import GroupCollector, group_tasks, groups_of, is_complete, rollouts_of
from rl.experience.closed_loop import PlayRules, beside, play
from rl.experience.records import EpisodeRecord, EpisodeTask, Reply
from rl.experience.rollouts import concatenate
from rl.experience.timeline import Timeline
from rl.objectives.grpo import GRPO, GRPOConfig
from rl.reward import Rewards
from rl.runs.metrics import episode_metrics, group_metrics
from tests.gated_simulator import CHUNKS, GatedSimulator
from tests.gated_task import SPEC, STEPS, GatedWAM, gated_settings
from tests.local_simulator import LocalSimulator

EXPLORE = PlayRules(explore=True, overlap=True, retries=2)


def schedule() -> Schedule:
    torch.manual_seed(0)
    return build_schedule("noisegate", SPEC, gated_settings().schedule)


def column(record: EpisodeRecord, name: str) -> np.ndarray:
    """A field of the traces of an episode, [queries, steps, ...]."""
    return np.stack([getattr(trace, name).numpy() for trace in record.traces])


def group(seed: int = 4, task: str = "gated", size: int = 4, draw: int = 0) -> tuple[EpisodeTask, ...]:
    return tuple(EpisodeTask(task, "clean", seed, (draw, member)) for member in range(size))


def local(count: int) -> list[Any]:
    return [LocalSimulator(GatedSimulator()) for _ in range(count)]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[list[SimulatorProcess]]:
    spec = SimulatorSpec("tests.gated_simulator:GatedSimulator", {"scratch": str(tmp_path)})
    simulators = [SimulatorProcess(spec) for _ in range(3)]
    yield simulators
    for simulator in simulators:
        simulator.close()


class Witness(GatedWAM):
    """Writes down what the episodes of each batch look like and how they begin."""

    def __init__(self) -> None:
        super().__init__()
        self.scenes: list[tuple[bytes, str]] = []
        self.noise: list[bytes] = []
        self.batches: list[int] = []

    def observe(self, observations: Sequence[Any], instructions: Sequence[str], histories: Sequence[Any] = ()) -> Any:
        self.scenes += [(one["joints"].tobytes(), text) for one, text in zip(observations, instructions, strict=True)]
        self.batches.append(len(observations))
        return super().observe(observations, instructions)

    def initial_noise(self, context: Any, seeds: Sequence[int]) -> Any:
        x, actions = super().initial_noise(context, seeds)
        self.noise += [row.numpy().tobytes() for row in x[:, :, 1:]]
        return x, actions


def test_episodes_of_a_group_see_the_same_scene_and_start_from_other_noise(processes: list[SimulatorProcess]) -> None:
    wam = Witness()
    played = play(wam, schedule(), processes, group(size=4), rules=EXPLORE)
    assert len(wam.noise) == 4 * CHUNKS
    assert len(set(wam.scenes)) == 1  # the gated scene stands still: same image and words at every query
    assert len(set(wam.noise)) == 4 * CHUNKS
    draws = {column(record, "u")[0].tobytes() for record in played}
    assert len(draws) == 4
    assert {record.instruction for record in played} == {"leave noise 0"}


def test_episodes_of_a_group_may_share_their_noise_and_then_differ_by_their_decisions_alone() -> None:
    wam, shared = Witness(), PlayRules(explore=True, shared_noise=True)
    played = play(wam, schedule(), local(4), [*group(size=4), *group(size=4, draw=1)], rules=shared)
    assert len(set(wam.noise)) == 2 * CHUNKS  # a query of a group starts once from each noise
    assert len({column(record, "u")[0].tobytes() for record in played}) == 8


def test_a_scene_that_comes_again_is_tried_with_other_noise() -> None:
    first, again = (play(GatedWAM(), schedule(), local(2), group(draw=draw), rules=EXPLORE) for draw in (0, 1))
    assert not np.array_equal(column(first[0], "u"), column(again[0], "u"))


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_what_is_played_does_not_depend_on_the_number_of_simulators(count: int) -> None:
    episodes = [*group(4), *group(5), *group(6)]
    expected = play(GatedWAM(), schedule(), local(3), episodes, rules=PlayRules(explore=True))
    found = play(GatedWAM(), schedule(), local(count), episodes, rules=EXPLORE)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.episode, ours.outcome, ours.updates) == (theirs.episode, theirs.outcome, theirs.updates)
        for name in ("u", "sigma"):
            np.testing.assert_allclose(column(ours, name), column(theirs, name), rtol=1e-5, atol=1e-6)


def test_a_trace_is_small_and_complete() -> None:
    (record,) = play(GatedWAM(), schedule(), local(1), group(size=1), rules=EXPLORE)
    columns = {name: column(record, name) for name in GateTrace.__dataclass_fields__}
    shapes = {name: (values.dtype.name, values.shape) for name, values in columns.items()}
    frames = (CHUNKS, STEPS, SPEC.future_frames)
    assert shapes == {
        "latents": ("float16", (CHUNKS, STEPS, SPEC.latent_channels, SPEC.latent_frames, *SPEC.latent_grid)),
        "sigma": ("float32", frames),
        "free": ("bool", frames),
        "u": ("float32", frames),
        "deviation": ("float32", frames),
        "log_std": ("float32", frames[:2]),
    }
    assert [levels.shape for levels in record.levels] == CHUNKS * [(STEPS + 1, SPEC.future_frames)]


def test_evaluation_draws_nothing_and_keeps_nothing() -> None:
    episodes = [EpisodeTask("gated", "clean", seed) for seed in (4, 5)]
    records = play(GatedWAM(), schedule(), local(2), episodes)
    assert [(record.traces, record.levels) for record in records] == 2 * [([], [])]
    assert records == play(GatedWAM(), schedule(), local(1), episodes)


def test_one_half_is_denoised_while_the_other_steps() -> None:
    """Slow simulators in processes of their own: the model works while at least one of them does."""
    spec = SimulatorSpec("tests.gated_simulator:GatedSimulator", {})
    simulators, timeline = [SimulatorProcess(spec) for _ in range(2)], Timeline()
    wam = Witness()
    play(wam, schedule(), simulators, group(task="slow", size=6), rules=EXPLORE, timeline=timeline)
    for simulator in simulators:
        simulator.close()
    shares = timeline.shares()
    assert set(wam.batches) == {1}  # each half is a batch of its own
    assert 0 < shares.overlap_s <= min(shares.simulator_s, shares.model_s)
    total = shares.simulator_s + shares.model_s - shares.overlap_s + shares.idle_s
    assert total == pytest.approx(shares.wall_s, abs=1e-6)


def test_finished_episodes_are_replaced_at_once_whatever_chunk_the_others_are_in() -> None:
    """A long episode beside three short ones: the short ones pass by, and share its batches."""
    wam, simulators = Witness(), [LocalSimulator(GatedSimulator(chunks=chunks)) for chunks in (1, 6)]
    play(wam, schedule(), simulators, group(size=4), rules=PlayRules(explore=True))  # type: ignore[arg-type]
    assert wam.batches == [2, 1, 2, 1, 2, 1]


def test_a_lost_episode_is_run_again_from_the_same_seeds(processes: list[SimulatorProcess]) -> None:
    undisturbed = play(GatedWAM(), schedule(), local(3), group(seed=4), rules=EXPLORE)
    crashed = play(GatedWAM(), schedule(), processes, group(seed=4, task="crash-once"), rules=EXPLORE)
    assert sorted(record.attempts for record in crashed)[-1] == 2
    assert [record.outcome for record in crashed] == [record.outcome for record in undisturbed]
    for ours, theirs in zip(crashed, undisturbed, strict=True):
        assert len(ours.traces) == CHUNKS
        np.testing.assert_allclose(column(ours, "u"), column(theirs, "u"), rtol=1e-5, atol=1e-6)


def test_an_episode_that_is_always_lost_is_a_fault_never_a_failure(processes: list[SimulatorProcess]) -> None:
    rules = PlayRules(explore=True, overlap=True, retries=1)
    records = play(GatedWAM(), schedule(), processes, [*group(4), *group(5, "crash-always", size=2)], rules=rules)
    assert [record.outcome for record in records[4:]] == 2 * ["sim_fault"]
    assert [record.attempts for record in records[4:]] == [2, 2]
    assert is_complete(records[:4])
    assert not is_complete(records[4:])


def test_a_group_with_an_action_that_is_not_finite_is_counted_and_not_learned_from() -> None:
    class Broken(GatedWAM):
        """One number of the second batch is infinite."""

        def finish_actions(self, context: Any, actions: torch.Tensor) -> np.ndarray:
            finished = super().finish_actions(context, actions)
            self.queries = getattr(self, "queries", 0) + 1
            if self.queries == 2:
                finished[1, 0, 0] = np.inf
            return finished

    records = play(Broken(), schedule(), local(3), group(seed=4, size=4), rules=PlayRules(explore=True))
    assert [record.outcome for record in records].count("not_finite") == 1
    (broken,) = (record for record in records if record.outcome == "not_finite")
    assert broken.message == "query 2 gave inf as number 0 of action 0"
    assert (broken.attempts, len(broken.updates)) == (1, 2)
    assert not is_complete(records)
    metrics = group_metrics([records], [], 0)
    assert (metrics["episode/outcome_not_finite"], metrics["group/dropped"]) == (1, 1)
    assert episode_metrics(records)["success"] == sum(record.outcome == "success" for record in records) / 4


def test_an_impossible_scene_is_found_out_once(processes: list[SimulatorProcess]) -> None:
    records = play(GatedWAM(), schedule(), processes[:1], group(task="impossible", size=8), rules=EXPLORE)
    assert {record.outcome for record in records} == {"infeasible_seed"}
    assert [record.episode for record in records] == list(group(task="impossible", size=8))


def test_a_failing_backbone_leaves_no_simulator_behind(processes: list[SimulatorProcess]) -> None:
    wam = GatedWAM()
    wam.forward = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="the kernel failed"):
        play(wam, schedule(), processes, group(), rules=EXPLORE)
    assert [simulator.pid for simulator in processes] == 3 * [None]


def fail(*args: Any) -> Any:
    raise RuntimeError("the kernel failed")


def test_the_same_cursor_gives_the_same_groups() -> None:
    env, groups = EnvConfig(tasks=["a", "b"]), GroupsConfig(size=3, seeds_per_task=5, first_seed=70)
    tasks = group_tasks(env, groups, 42, 0, 20)
    assert group_tasks(env, groups, 42, 8, 4) == tasks[8:12]
    assert group_tasks(env, groups, 43, 0, 20) != tasks
    assert [group[0].task for group in tasks] == 10 * ["a", "b"]
    for task in ("a", "b"):
        seeds = [group[0].seed for group in tasks if group[0].task == task]
        assert sorted(seeds[:5]) == sorted(seeds[5:]) == list(range(70, 75))
    assert all(len({episode.scene for episode in group}) == 1 for group in tasks)
    assert len({episode.stream for group in tasks for episode in group}) == 60


def record_of(outcome: str, walks: int, stream: tuple[int, ...] = (0, 0)) -> EpisodeRecord:
    """An episode of as many walks, whose draws are numbered from 0 on."""
    draws = torch.arange(walks * STEPS, dtype=torch.float32).split(STEPS)
    none, free = torch.zeros(STEPS, 1), torch.ones(STEPS, 1, dtype=torch.bool)
    traces = [GateTrace(none, none, u[:, None], none, none[:, 0], free) for u in draws]
    levels = walks * [np.linspace(1, 0.2, STEPS + 1, dtype=np.float32)[:, None]]
    return EpisodeRecord(
        "gated", "clean", 4, outcome, updates=walks * [STEPS], forwards=walks * [STEPS + 1], stream=stream,
        traces=list(traces), levels=levels,
    )  # fmt: skip


def test_replies_are_cut_into_their_groups() -> None:
    members = [[record_of(outcome, 1, (position, member)) for member in range(2)]
               for position, outcome in enumerate(("success", "success", "timeout"))]  # fmt: skip
    replies = [Reply(0, 5, episodes=[*members[0], *members[1]]), Reply(1, 6, episodes=members[2])]
    groups = groups_of(replies)
    assert groups == members
    assert [is_complete(group) for group in groups] == [True, True, False]


def test_only_complete_groups_of_unequal_return_are_informative() -> None:
    settings, rewards = gated_settings(), Rewards({"success": RewardConfig()}, SPEC)
    engine: Any = SimpleNamespace(settings=settings)
    collector = GroupCollector(engine, GroupsConfig(), rewards)
    outcomes = [("success", "step_limit"), ("success", "success"), ("success", "sim_fault"), ("timeout", "timeout")]
    for position, pair in enumerate(outcomes):
        episodes = [record_of(outcome, 1, (position, member)) for member, outcome in enumerate(pair)]
        assert collector._count_informative([Reply(0, 1, episodes=episodes)]) == (position == 0)


def test_every_decision_of_an_episode_gets_its_advantage() -> None:
    rollouts = rollouts_of([record_of("success", 2, (0, 0)), record_of("step_limit", 3, (0, 1))])
    returns = Rewards({"success": RewardConfig()}, SPEC).score(rollouts, progress=0.0).credit
    assert returns.tolist() == [3 * [1], 3 * [0]]
    assert rollouts.names == ["gated/clean seed 4 stream (0, 0)", "gated/clean seed 4 stream (0, 1)"]
    assert rollouts.groups == [0, 0]
    assert rollouts.outcomes == ["success", "step_limit"]
    assert rollouts.lengths.tolist() == [2 * STEPS, 3 * STEPS]
    assert (rollouts.updates.tolist(), rollouts.forwards.tolist()) == (2 * [STEPS], 2 * [STEPS + 1])
    assert isinstance(rollouts.trace, GateTrace)
    padded = rollouts.trace.padded(rollouts.lengths.tolist())
    assert padded.free.sum(dim=(1, 2)).tolist() == [2 * STEPS, 3 * STEPS]
    assert padded.u[1, :, 0].tolist() == list(range(3 * STEPS))
    assert padded.u[0, :, 0].tolist() == [*range(2 * STEPS), *STEPS * [0]]
    advantages = rollouts.per_decision(GRPO(GRPOConfig()).advantages(rollouts, returns))
    np.testing.assert_allclose(advantages[1], -1, rtol=1e-5)
    np.testing.assert_allclose(advantages[0], 2 * STEPS * [1.0] + STEPS * [0.0], rtol=1e-5)


def test_those_that_still_play_at_a_query_are_compared_decision_by_decision() -> None:
    rollouts = rollouts_of([record_of("success", 1, (0, 0)), *(record_of("step_limit", 2, (0, k)) for k in (1, 2))])
    playing = GRPO(GRPOConfig(baseline="playing"))
    advantages = rollouts.per_decision(playing.advantages(rollouts, np.array([[1.0], [0.0], [0.0]])))
    assert (advantages[0, :STEPS] > 0).all()
    assert (advantages[1:, :STEPS] < 0).all()
    assert (advantages[:, STEPS:] == 0).all()  # only the failures are left, and they are equal


def test_groups_are_compared_within_and_equal_ones_are_left_out() -> None:
    """Whatever order the rollouts come in: a group is what has one key."""
    outcomes = {0: ("success", "step_limit"), 1: ("success", "success"), 2: ("step_limit", "success")}
    groups = [rollouts_of([record_of(outcome, 1, (position, member)) for member, outcome in enumerate(pair)])
              for position, pair in outcomes.items()]  # fmt: skip
    rollouts = concatenate(groups).select([0, 2, 4, 1, 3, 5])
    objective, returns = GRPO(GRPOConfig()), rollouts.success[:, None]
    rows = objective.learnable(rollouts, returns)
    assert sorted(rows.tolist()) == [0, 2, 3, 5]
    advantages = objective.advantages(rollouts.select(rows), returns[rows])[:, 0]
    np.testing.assert_allclose(advantages, np.where(returns[rows, 0] > 0, 1, -1), rtol=1e-5)


def test_a_filmed_episode_shows_what_happened_beside_what_was_imagined() -> None:
    executed = np.zeros((3, 4, 4, 3), dtype=np.uint8)
    imagined = np.stack([np.full((2, 2, 3), shade, dtype=np.uint8) for shade in (50, 90)])
    shown = beside(executed, imagined)
    assert shown.shape == (3, 4, 8, 3)
    assert shown[:, :, :4].max() == 0
    assert shown[:, 0, 4, 0].tolist() == [50, 90, 90]

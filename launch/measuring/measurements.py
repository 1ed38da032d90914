"""The measurements of `launch.bench`. Every number is a ratio within one run, so that machines can be compared."""

from __future__ import annotations

import logging
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from configs.fetched import working_folder
from configs.planning import PlanConfig
from configs.schema import Config, GroupsConfig
from envs.suites import Wanted, episode_seeds
from policies.backbones.door import FrozenWAM, WAMSpec
from policies.catalogue import build_schedule
from policies.schedule import Schedule
from policies.walk import walk
from rl.algorithm import ScheduleAlgorithm, ScheduleAlgorithmConfig, running
from rl.collectors.segments import SegmentCollector
from rl.engine.runner import WAMEnvRunner
from rl.experience.closed_loop import PlayRules, play
from rl.experience.records import EpisodeTask, PathRequest, split_evenly
from rl.experience.segments import Segment, load_segments, observe_segments
from rl.experience.simulators import make_simulators
from rl.experience.timeline import Shares, Timeline
from rl.method import choose

BATCH = 32
CHUNK = 16
ROUNDS = 4
EPISODES_A_SIMULATOR = 3
FIRST_UPDATE_S = 60.0


@dataclass(frozen=True)
class Ratio:
    """A measured ratio and its target."""

    name: str
    value: float
    explanation: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met, or None if there is no target."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"


def alternating_s(*works: Callable[[], object]) -> list[float]:
    """Return the median wall seconds of each work. They run in turns, so that all see the same machine."""
    times: list[list[float]] = [[] for _ in works]
    for turn in range(1 + ROUNDS):
        for work, measured in zip(works, times, strict=True):
            begin = time.perf_counter()
            work()
            if turn:
                measured.append(time.perf_counter() - begin)
    return [statistics.median(measured) for measured in times]


def ragged_batch(wam: FrozenWAM, segments: Sequence[Segment], schedule: Schedule) -> Ratio:
    """Compare one stochastic walk of all rows with a walk for each row."""
    context = observe_segments(wam, segments)
    singles = [context.select(torch.tensor([row])) for row in range(len(segments))]
    seeds = list(range(len(segments)))

    def together() -> None:
        walk(wam, context, schedule, seeds, deterministic=False)

    def apart() -> None:
        for single, seed in zip(singles, seeds, strict=True):
            walk(wam, single, schedule, [seed], deterministic=False)

    single_s, batch_s = alternating_s(apart, together)
    value = single_s / batch_s
    return Ratio("ragged batch", value, f"{len(segments)} single walks / one batch of {len(segments)}", at_least=1.0)


def latency(wam: FrozenWAM, segments: Sequence[Segment], schedule: Schedule) -> Ratio:
    """Compare a single query under the schedule with one under full denoising."""
    full = build_schedule("fixed-full", wam.spec)
    full_s, schedule_s = alternating_s(
        lambda: _query_alone(wam, segments, full), lambda: _query_alone(wam, segments, schedule)
    )
    value = full_s / schedule_s
    return Ratio("latency", value, f"one query: fixed-full / {schedule.name}", at_least=1.0)


def planning(wam: FrozenWAM, segments: Sequence[Segment], plan: PlanConfig) -> Ratio:
    """Compare a single query of fixed-5 behind a search of 3 rounds, 8 videos and 2 values with one of fixed-5."""
    plain, planned = (build_schedule(name, wam.spec, plan=plan) for name in ("fixed-5", "fixed-5+plan-3-8-2"))
    planned_s, plain_s = alternating_s(
        lambda: _query_alone(wam, segments, planned), lambda: _query_alone(wam, segments, plain)
    )
    return Ratio("planning", planned_s / plain_s, f"one query: {planned.name} / {plain.name}", at_most=12.0)


def _query_alone(wam: FrozenWAM, segments: Sequence[Segment], schedule: Schedule) -> None:
    for row, segment in enumerate(segments[:4]):
        walk(wam, observe_segments(wam, [segment]), schedule, [row])


def chunk_stepping(config: Config, task: str) -> Ratio:
    """Compare `step_chunk` of 16 actions, rendered once, with 16 rendered steps."""
    (simulator,) = make_simulators(config.env, 1)
    (seed,) = episode_seeds(config.env, "validation", task, Wanted(config.validation.first_seed, 1))
    with simulator:
        reply = simulator.reset(task, config.env.mode, seed)
        chunk = np.tile(reply.observation["joints"], (CHUNK, 1))

        def steps() -> None:
            simulator.reset(task, config.env.mode, seed)
            for action in chunk:
                simulator.step_chunk(action[None])

        def together() -> None:
            simulator.reset(task, config.env.mode, seed)
            simulator.step_chunk(chunk)

        steps_s, together_s, reset_s = alternating_s(
            steps, together, lambda: simulator.reset(task, config.env.mode, seed)
        )
        value = (steps_s - reset_s) / max(together_s - reset_s, 1e-9)
    return Ratio("step_chunk", value, f"{CHUNK} rendered steps / one chunk of {CHUNK}", at_least=1.0)


def overlapping(config: Config, wam: FrozenWAM) -> list[Ratio]:
    """Compare episodes of which one half is denoised while the other half steps with their bound and with turns."""
    env, count = config.env, config.rollout.episodes_per_runner
    wanted = Wanted(config.validation.first_seed, EPISODES_A_SIMULATOR * count)
    seeds = episode_seeds(env, "validation", env.tasks[0], wanted)
    episodes = [EpisodeTask(env.tasks[0], env.mode, seed) for seed in seeds]
    schedule = build_schedule("joint-10", wam.spec, config.schedule)
    simulators = make_simulators(env, count)
    shares: dict[bool, list[Shares]] = {True: [], False: []}

    def run(overlap: bool) -> None:
        timeline = Timeline()
        play(wam, schedule, simulators, episodes, rules=PlayRules(overlap=overlap), timeline=timeline)
        shares[overlap].append(timeline.shares())

    with ExitStack() as stack:
        for simulator in simulators:
            stack.enter_context(simulator)
        overlapped_s, turns_s = alternating_s(lambda: run(True), lambda: run(False))
    bound = statistics.median(max(one.simulator_s, one.model_s) / one.wall_s for one in shares[True][1:])
    return [
        Ratio("overlap, of its bound", bound, "the longer of simulators and model / wall, joint-10", at_least=0.85),
        Ratio("overlap, against turns", turns_s / overlapped_s, "seconds in turns / overlapped", at_least=1.0),
    ]


def training(config: Config, spec: WAMSpec) -> list[Ratio]:
    """Measure rollouts through Ray against bare processes, the learner's share, and the bytes of a broadcast.

    Ray must be running.
    """
    reports = []
    with running(ScheduleAlgorithmConfig.of(config, spec)) as built:
        built.train()
        built.collector.collect()  # walks the anchors of the paths to be timed
        requests = _requests(built)
        with bare_processes(config, spec, len(requests)) as pipes:
            through_ray, bare = alternating_s(built.collector.collect, lambda: _ask_bare(pipes, requests))
        for _ in range(3):
            built.train()
            reports.append(built.latest_metrics)
        tensors = built.schedule.policy.state_dict().values()
        weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    share = statistics.median(report["time/learner_share"] for report in reports)
    return [
        Ratio(
            "rollouts through Ray", bare / through_ray, "bare processes / Ray, seconds a batch of paths", at_least=0.9
        ),
        Ratio("learner share", share, "learner / whole iteration", at_most=0.05),
        Ratio(
            "broadcast",
            reports[-1]["runners/broadcast_bytes"] / weights,
            "bytes sent / bytes of the schedule",
            at_most=1.0,
        ),
    ]


def collecting_ahead(config: Config, spec: WAMSpec) -> Ratio:
    """Compare runners that wait for the learner with runners that do not, on NoiseGate. Ray must be running."""
    seconds: dict[bool, float] = {}
    for ahead in (False, True):
        with running(ScheduleAlgorithmConfig.of(gate_settings(config, ahead), spec)) as built:
            built.train()  # starts the simulators
            begin = time.perf_counter()
            for _ in range(ROUNDS):
                built.train()
            seconds[ahead] = time.perf_counter() - begin
    explanation = f"{ROUNDS} iterations of NoiseGate, seconds with waiting runners / asynchronous"
    return Ratio("asynchronous collection", seconds[False] / seconds[True], explanation, at_least=1.0)


def gate_settings(config: Config, ahead: bool) -> Config:
    """Return settings of NoiseGate on the recipe's first task, with two small groups for each runner."""
    gate, size = choose("noisegate", "groups"), config.rollout.episodes_per_runner
    return replace(
        quiet(config),
        env=replace(config.env, tasks=config.env.tasks[:1]),
        schedule=gate.schedule,
        collector=GroupsConfig(size=size, per_iteration=2 * config.rollout.runners, overlap=False, asynchronous=ahead),
        reward=gate.reward,
        objective=gate.objective,
    )


def first_update(recipe: Sequence[str]) -> Ratio:
    """Measure the time from the start of `launch.train` to its first update, as a share of the allowed minute."""
    with tempfile.TemporaryDirectory() as folder:
        fast = [f"run.root={folder}", "run.resume=never", "validation.every=0"]
        command = [sys.executable, "-m", "launch.train", *recipe, *fast]
        begin = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            seen = next((line for line in process.stdout if line.startswith("iteration 1/")), None)
            passed = time.perf_counter() - begin
            process.terminate()
            process.stdout.read()
    if seen is None:
        raise RuntimeError(f"{' '.join(command)} ended before its first update")
    return Ratio("first update", passed / FIRST_UPDATE_S, f"seconds / {FIRST_UPDATE_S:g} s", at_most=1.0)


def bench_segments(config: Config, spec: WAMSpec) -> list[Segment]:
    """Return `BATCH` segments spread over the validation split. They repeat if the split has fewer."""
    source = load_segments(config, "validation", spec.action_horizon, spec.action_dim)
    return [source[index * len(source) // BATCH] for index in range(BATCH)]


def _requests(built: ScheduleAlgorithm) -> list[PathRequest]:
    """Return the requests that the collector would send to its runners if every anchor was known."""
    collector = built.collector
    assert isinstance(collector, SegmentCollector)
    paths = collector.settings.paths_per_iteration
    tasks = collector.tasks(built.iteration * paths, paths)
    return [PathRequest(tuple(part), collector.settings.split) for part in split_evenly(tasks, built.slots)]


@contextmanager
def bare_processes(config: Config, spec: WAMSpec, count: int) -> Iterator[list[Connection]]:
    """Run the same runner in plain processes without Ray, and yield a pipe to each."""
    start = multiprocessing.get_context("spawn")
    pipes, workers = [], []
    for _ in range(count):
        ours, theirs = start.Pipe()
        worker = start.Process(target=serve_bare, args=(theirs, config, spec), daemon=True)
        worker.start()
        pipes.append(ours)
        workers.append(worker)
    try:
        yield pipes
    finally:
        for pipe in pipes:
            pipe.send(None)
        for worker in workers:
            worker.join(10)


def serve_bare(pipe: Connection, config: Config, spec: WAMSpec) -> None:
    """Answer requests from the pipe until None comes. This is the loop of a bare process."""
    logging.disable(logging.WARNING)
    runner = WAMEnvRunner(config=ScheduleAlgorithmConfig.of(config, spec), worker_index=1, num_workers=1)
    while (request := pipe.recv()) is not None:
        pipe.send(runner.sample(request=request))
    runner.stop()


def _ask_bare(pipes: Sequence[Connection], requests: Sequence[PathRequest]) -> None:
    for pipe, request in zip(pipes, requests, strict=True):
        pipe.send(request)
    for pipe in pipes:
        reply = pipe.recv()
        if reply.failures:
            raise RuntimeError(reply.failures[0].message)


def quiet(config: Config) -> Config:
    """Return the configuration without validation."""
    return replace(config, validation=replace(config.validation, every=0))


def log_folder(config: Config) -> Path:
    """Return the folder of the results."""
    return working_folder(config.run.root) / "bench"

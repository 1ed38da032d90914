"""What a runner costs the driver: `python -m launch.measuring.scale <recipe> [key=value ...]`.

Dispatcher, actor manager, Ray and the broadcast of weights are the real ones, with one process for each runner. The
runners have no backbone: they wait `WORK_S`, and answer with as many bytes as real ones. It writes `scale.json` and
`scale.png` to the folder of the run.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from launch.measuring.drawing import drawn
from launch.shell.cli import load_config
from launch.shell.console import console, failures_are_messages
from launch.shell.runs import run_directory

if TYPE_CHECKING:
    from configs.schema import Config
    from launch.measuring.stub_runner import Content
    from rl.experience.records import Reply, Request

DESCRIPTION = "Measure what a runner costs the driver, with 1, 4, 16 and 64 runners that only wait."
COUNTS = (1, 4, 16, 64)
WORK_S = 1.0
ROUNDS, WARM_UP = 8, 2
PATHS = 16  # of a request
START_S = 900.0
MODELLED = 512


@dataclass(frozen=True)
class Point:
    """The costs of a round with so many runners. All but the first two numbers are medians over rounds."""

    runners: int
    reply_bytes: int
    round_s: float
    driver_cpu_s: float
    broadcast_s: float
    objects: float
    object_bytes: float


@dataclass(frozen=True)
class Model:
    """The driver's CPU seconds in a round: `fixed_s`, and `each_s` more for each runner."""

    fixed_s: float
    each_s: float
    learn_s: float  # the learner's CPU seconds for what one runner sends in a round

    def driver_s(self, runners: float) -> float:
        return self.fixed_s + self.each_s * runners

    def full_at(self, work_s: float) -> float:
        """The number of runners whose requests, of so many seconds, keep the driver busy all the time."""
        return max(0.0, work_s - self.fixed_s) / self.each_s

    def learner_full_at(self, work_s: float) -> float:
        """The number of runners for whose paths the learner needs as long as the runners for walking them."""
        return work_s / self.learn_s


def main(argv: Sequence[str] | None = None) -> int:
    config = load_config(sys.argv[1:] if argv is None else argv, DESCRIPTION, walks=True)
    with failures_are_messages(Path(run_directory(config))):
        return run(config)


def run(config: Config, counts: Sequence[int] = COUNTS, work_s: float = WORK_S) -> int:
    """Measure, print, write and draw. Returns exit code 0."""
    from envs.files import write_json
    from rl.engine.cluster import ray_session

    folder = run_directory(config)
    with ray_session(folder, cpus=1):
        content, learn_s = example(config)
        points = []
        for count in counts:
            points.append(measure(config, content, count, work_s))
            console.print(json.dumps(asdict(points[-1])), soft_wrap=True)
    model = fitted(points, learn_s)
    console.print(
        f"{MODELLED} runners: {model.driver_s(MODELLED):.2f} s of the driver and {model.learn_s * MODELLED:.2f} s of "
        f"the learner in a round. With requests of {work_s:g} s the driver is full at {model.full_at(work_s):.0f} "
        f"runners, the learner at {model.learner_full_at(work_s):.0f}.",
        soft_wrap=True,
    )
    rows = [asdict(point) for point in points]
    write_json(folder / "scale.json", {"work_s": work_s, "model": asdict(model), "points": rows})
    draw(folder / "scale.png", points, model, work_s)
    console.print(f"\n{folder / 'scale.png'}")
    return 0


def example(config: Config) -> tuple[Content, float]:
    """Return the arrays of a real reply with `PATHS` paths, and the CPU seconds that the learner needs for as many."""
    from policies.backbones import describe
    from rl.algorithm import ScheduleAlgorithmConfig, running
    from rl.collectors.segments import SegmentCollector

    alone = replace(config, rollout=replace(config.rollout, runners=0), validation=replace(config.validation, every=0))
    with running(ScheduleAlgorithmConfig.of(alone, describe(config.wam))) as built:
        collector = built.collector
        assert isinstance(collector, SegmentCollector)
        collector.calibrate()
        _, replies = collector._walk(collector.tasks(0, PATHS), collector.settings.split)
        built.train()  # it also makes the optimizer
        rollouts = built.latest
        assert rollouts is not None
        begin = time.process_time()
        built.learn(rollouts, built.score(rollouts).credit)
        learned_s = time.process_time() - begin
    return arrays_of(replies[0]), learned_s * PATHS / len(rollouts)


def arrays_of(reply: Reply) -> Content:
    """Return the arrays of the rollouts in a reply."""
    paths = reply.paths
    assert paths is not None
    assert paths.trace is not None
    own = {name: value for name, value in vars(paths).items() if isinstance(value, np.ndarray)}
    levels = {f"levels/{row}": values for row, values in enumerate(paths.levels)}
    return own | levels | {name: values.numpy() for name, values in paths.trace.columns().items()}


def measure(config: Config, content: Content, count: int, work_s: float) -> Point:
    """Measure rounds of `count` requests on as many runners."""
    import ray

    from launch.measuring.stub_runner import StubRequest, StubRunner
    from rl.engine.dispatch import Dispatcher

    requests = cast("list[Request]", [StubRequest(((2**62,) * 3,) * PATHS)] * count)  # three numbers for each path
    actor = ray.remote(StubRunner).options(num_cpus=0)
    actors = []
    for _ in range(count):  # one after the other, since each start takes a core for a second
        actors.append(actor.remote(content, work_s))
        ray.get(actors[-1].ping.remote(), timeout=START_S)
    group, weights = _group(actors, config), _Weights(config)
    dispatcher = Dispatcher(group, list, lambda runners: None, config.rollout)
    seen = []
    for version in range(WARM_UP + ROUNDS):
        weights.version = version
        stored, cpu, begin = _stored(), time.process_time(), time.perf_counter()
        group.sync_weights(from_worker_or_learner_group=weights, inference_only=True)
        sent = time.perf_counter()
        dispatcher.collect(requests, version)
        row = (time.perf_counter() - begin, time.process_time() - cpu, sent - begin)
        seen.append((*row, *(after - before for before, after in zip(stored, _stored(), strict=True))))
    for one in actors:
        ray.kill(one)
    size = sum(values.nbytes for values in content.values())
    return Point(count, size, *(statistics.median(column) for column in zip(*seen[WARM_UP:], strict=True)))


def _group(actors: list[Any], config: Config) -> Any:
    """RLlib's group of runners around actors that are there already."""
    from ray.rllib.env.env_runner_group import EnvRunnerGroup
    from ray.rllib.utils.actor_manager import FaultTolerantActorManager

    from policies.backbones import describe
    from rl.engine.rllib import EngineConfig

    group = EnvRunnerGroup.__new__(EnvRunnerGroup)
    group._ignore_ray_errors_on_env_runners = False
    group._local_env_runner, group._remote_config = None, EngineConfig.of(config, describe(config.wam))
    group._worker_manager = FaultTolerantActorManager(actors, max_remote_requests_in_flight_per_actor=1, init_id=1)
    return group


class _Weights:
    """The weights of an untrained policy, as RLlib asks a learner for them."""

    def __init__(self, config: Config) -> None:
        from policies.backbones import describe
        from policies.catalogue import learned_kind

        policy = learned_kind(config.schedule.name).new_policy(describe(config.wam), config.schedule)
        self._weights = {name: value.numpy() for name, value in policy.state_dict().items()}
        self.version = 0

    def get_state(self, **_: object) -> dict[str, Any]:
        return {"rl_module": {"default_policy": self._weights}, "weights_seq_no": self.version}


def _stored() -> tuple[int, int]:
    """Return how many objects, and how many bytes, were ever put into this node's object store."""
    import ray
    from ray._private.internal_api import node_stats

    node = ray.nodes()[0]
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False).store_stats
    return stats.cumulative_created_objects, stats.cumulative_created_bytes


def fitted(points: Sequence[Point], learn_s: float) -> Model:
    """Fit a line to the driver's CPU time. `learn_s` is as in `Model`."""
    each, fixed = np.polyfit([point.runners for point in points], [point.driver_cpu_s for point in points], 1)
    return Model(max(0.0, float(fixed)), float(each), learn_s)


def draw(path: Path, points: Sequence[Point], model: Model, work_s: float) -> None:
    """Draw measured round times and driver times, and what the model says up to `MODELLED` runners, as a PNG."""
    with drawn(path, 7, 4.2) as figure:
        axes = figure.add_subplot(xlabel="runners", ylabel="seconds of a round", xscale="log", yscale="log")
        counts, line = [point.runners for point in points], np.geomspace(1, MODELLED, 50)
        axes.axhline(work_s, color="grey", linestyle=":", label="ideal: a runner's own work")
        axes.plot(counts, [point.round_s for point in points], "o-", label="round, measured")
        axes.plot(counts, [point.driver_cpu_s for point in points], "s", color="C1", label="driver's CPU, measured")
        axes.plot(line, [model.driver_s(count) for count in line], "--", color="C1", label="driver's CPU, model")
        axes.plot(line, model.learn_s * line, "--", color="C2", label=f"learner, for {PATHS} paths of each runner")
        axes.set_xticks([1, 4, 16, 64, 256, 512], ["1", "4", "16", "64", "256", "512"])
        axes.legend(fontsize=8)


if __name__ == "__main__":
    sys.exit(main())

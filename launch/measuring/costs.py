"""What a backbone costs: loading, memory, forwards and whole queries, beside their arithmetic."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from configs.schema import Config, WAMConfig
from launch.measuring.measurements import Ratio
from policies.backbones.door import FrozenWAM, Observation, Point, Want
from policies.backbones.published.random_weights import write_random
from policies.catalogue import build_schedule
from policies.memory import GIB
from policies.schedule import Schedule
from policies.walk import walk
from rl.experience.simulators import load_for

INSTRUCTION = "lift the pot with both arms"
ALLOWED_GIB = 2.0  # what loading and queries may need beside the weights
CAMERAS, PICTURE = ("head", "left_wrist", "right_wrist"), (240, 320, 3)
VIDEO, ACTION = Want.VIDEO_FLOW | Want.POOLED | Want.MEMORY, Want.ACTION_FLOW
BOTH = Want.VIDEO_FLOW | Want.POOLED | Want.ACTION_FLOW
Result = TypeVar("Result")


class Backbone(FrozenWAM, Protocol):
    """A frozen backbone, and what is asked of it here besides. All backbones of this project have both."""

    model: nn.Module
    device: torch.device


def measure(config: Config, stored: WAMConfig, schedules: list[str]) -> tuple[Backbone, list[Ratio]]:
    """Load the backbone `stored`, and ask it for one forward and one query under each of the schedules a batch size.

    Every part is timed once, after the other parts have run on it. With `bench.compile`, forwards are compiled, and run
    once before.
    """
    torch.set_num_threads(config.wam.torch_threads)
    wam, took = _timed(lambda: cast(Backbone, load_for(config.env, stored)))
    weights = sum(parameter.nbytes for parameter in wam.model.parameters()) / GIB
    ratios = [Ratio("loading", took.wall / weights, f"seconds a GiB: {weights:.3g} GiB in {took}")]
    if compiled := config.bench.compile:
        wam.forward = torch.compile(wam.forward)  # type: ignore[method-assign]
    for batch in config.bench.batches:
        ratios += _of_batch(
            wam, batch, [build_schedule(name, wam.spec, config.schedule) for name in schedules], compiled
        )
    needed = _peak_gib(wam.device)
    of = f"{needed:.2f} GiB / ({weights:.3g} GiB of weights + {ALLOWED_GIB:g})"
    return wam, [*ratios, Ratio("peak memory", needed / (weights + ALLOWED_GIB), of, at_most=1.0)]


def random_checkpoint(config: Config) -> WAMConfig:
    """Write random weights below `bench.folder`, unless they are there. Returns the settings that load them.

    A process of its own writes them, so that the peak memory of this one is that of loading and asking.
    """
    bench, key = config.bench, config.wam.backbone
    folder = Path(bench.folder) / f"{key}-{bench.size}"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        written = pool.apply(write_random, (folder, key, bench.size, [INSTRUCTION]))
    return replace(written, device=config.wam.device, dtype=config.wam.dtype)


def _of_batch(wam: Backbone, batch: int, schedules: list[Schedule], compiled: bool) -> Iterator[Ratio]:
    random = np.random.default_rng(0)
    observations: list[Observation] = [
        {
            **{camera: random.integers(0, 256, PICTURE, dtype=np.uint8) for camera in CAMERAS},
            "joints": np.zeros(14, dtype=np.float32),
        }
        for _ in range(batch)
    ]
    instructions, seeds = [INSTRUCTION] * batch, list(range(batch))
    context, took = _timed(lambda: wam.observe(observations, instructions))
    x, actions = wam.initial_noise(context, seeds)
    ones = torch.ones(batch, device=wam.device)
    point = Point(x, actions, ones[:, None].expand(batch, wam.spec.future_frames), ones)
    yield Ratio(f"observe, batch {batch}", took.wall, f"seconds for pictures, text and the observed frame: {took}")
    yield from _of_forwards(wam, context, point, compiled)
    for schedule in schedules:
        query = partial(_query, wam, observations, instructions, schedule)
        if compiled:
            query()
        walked, took = _timed(query)
        forwards = float(np.mean([record.forwards for record in walked.records]))
        explanation = f"seconds a query: {batch} with {forwards:.1f} video forwards each in {took}"
        yield Ratio(f"{schedule.name}, batch {batch}", took.wall / batch, explanation)


def _of_forwards(wam: Backbone, context: Any, point: Point, compiled: bool) -> Iterator[Ratio]:
    """Measure a forward of the video and a step of the action, or one of both where the video reads the action."""
    batch = len(point)
    if Want.MEMORY not in wam.spec.gives:
        _, tera, took = _counted(lambda: wam.forward(context, point, BOTH), compiled)
        yield Ratio(f"joint forward, batch {batch}", tera / took.wall, f"TFLOP a second: {tera:.2f} in {took}")
        return
    output, tera, took = _counted(lambda: wam.forward(context, point, VIDEO), compiled)
    yield Ratio(f"video forward, batch {batch}", tera / took.wall, f"TFLOP a second: {tera:.2f} in {took}")
    _, tera, took = _counted(lambda: wam.forward(context, point, ACTION, output.memory), compiled)
    yield Ratio(f"action step, batch {batch}", tera / took.wall, f"TFLOP a second: {tera:.3f} in {took}")


def _query(wam: Backbone, observations: list[Observation], instructions: list[str], schedule: Schedule) -> Any:
    context = wam.observe(observations, instructions)
    walked = walk(wam, context, schedule, list(range(len(observations))))
    wam.finish_actions(context, walked.end.actions)
    return walked


@dataclass(frozen=True)
class Seconds:
    """The time of a piece of work. That of the CPU tells what a shared machine would need without the others."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} s ({self.cpu:.2f} s of CPU)"


def _counted(work: Callable[[], Result], compiled: bool) -> tuple[Result, float, Seconds]:
    """Return the result of `work`, its TFLOP, and the time of a second run that counts nothing."""
    with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
        work()
    if compiled:
        work()  # which compiles it
    result, seconds = _timed(work)
    return result, counter.get_total_flops() / 1e12, seconds


def _timed(work: Callable[[], Result]) -> tuple[Result, Seconds]:
    begin, begin_cpu = time.perf_counter(), time.process_time()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, Seconds(time.perf_counter() - begin, time.process_time() - begin_cpu)


def _peak_gib(device: torch.device) -> float:
    """Return the most memory that this process had: of the GPU, or resident pages with those of mapped files."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB

"""What a published backbone costs: loading, memory, forwards and whole queries, beside their arithmetic."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from configs.schema import Config, WAMConfig
from launch.measuring.measurements import Ratio
from policies.backbones import load_wam
from policies.backbones.door import Observation, Point, Want
from policies.backbones.published.frozen import FrozenMixture
from policies.backbones.published.random_weights import write_random
from policies.catalogue import build_schedule
from policies.memory import GIB
from policies.walk import walk

INSTRUCTION = "lift the pot with both arms"
ALLOWED_GIB = 2.0  # what loading and queries may need beside the weights
CAMERAS, PICTURE = ("head", "left_wrist", "right_wrist"), (240, 320, 3)
VIDEO, ACTION = Want.VIDEO_FLOW | Want.POOLED | Want.MEMORY, Want.ACTION_FLOW
Result = TypeVar("Result")


def measure(config: Config) -> list[Ratio]:
    """Load the backbone, and ask it for one forward and one query under each of `bench.schedules` a batch size.

    Every part is timed once, after the other parts have run on it. With `bench.weights=random`, a checkpoint of random
    numbers is written first.
    """
    wam_config = config.wam if config.bench.weights == "stored" else random_checkpoint(config)
    torch.set_num_threads(config.wam.torch_threads)
    wam, load_s = _timed(lambda: load_wam(wam_config))
    if not isinstance(wam, FrozenMixture):
        raise ValueError(f"wam.backbone={config.wam.backbone!r} is no published backbone: leave bench.weights=stored")
    weights = sum(parameter.nbytes for parameter in wam.model.parameters()) / GIB
    ratios = [Ratio("loading", load_s / weights, f"seconds a GiB: {load_s:.1f} s for {weights:.2f} GiB")]
    for batch in config.bench.batches:
        ratios += _of_batch(wam, batch, config.bench.schedules)
    needed = _peak_gib(wam.device)
    of = f"{needed:.2f} GiB / ({weights:.2f} GiB of weights + {ALLOWED_GIB:g})"
    return [*ratios, Ratio("peak memory", needed / (weights + ALLOWED_GIB), of, at_most=1.0)]


def random_checkpoint(config: Config) -> WAMConfig:
    """Write random weights below `bench.folder`, unless they are there. Returns the settings that load them.

    A process of its own writes them, so that the peak memory of this one is that of loading and asking.
    """
    bench, key = config.bench, config.wam.backbone
    folder = Path(bench.folder) / f"{key}-{bench.size}"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        written = pool.apply(write_random, (folder, key, bench.size, [INSTRUCTION]))
    return replace(written, device=config.wam.device, dtype=config.wam.dtype)


def _of_batch(wam: FrozenMixture, batch: int, schedules: list[str]) -> Iterator[Ratio]:
    random = np.random.default_rng(0)
    observations: list[Observation] = [
        {
            **{camera: random.integers(0, 256, PICTURE, dtype=np.uint8) for camera in CAMERAS},
            "joints": np.zeros(14, dtype=np.float32),
        }
        for _ in range(batch)
    ]
    instructions, seeds = [INSTRUCTION] * batch, list(range(batch))
    context, observe_s = _timed(lambda: wam.observe(observations, instructions))
    x, actions = wam.initial_noise(context, seeds)
    ones = torch.ones(batch, device=wam.device)
    point = Point(x, actions, ones[:, None].expand(batch, wam.spec.future_frames), ones)
    yield Ratio(f"observe, batch {batch}", observe_s, "seconds for pictures, text and the observed frame")
    output, tera, video_s = _counted(lambda: wam.forward(context, point, VIDEO))
    yield Ratio(f"video forward, batch {batch}", tera / video_s, f"TFLOP a second: {tera:.2f} in {video_s:.2f} s")
    _, tera, action_s = _counted(lambda: wam.forward(context, point, ACTION, output.memory))
    yield Ratio(f"action step, batch {batch}", tera / action_s, f"TFLOP a second: {tera:.3f} in {action_s:.2f} s")
    for name in schedules:
        schedule = build_schedule(name, wam.spec)
        walked, query_s = _timed(partial(_query, wam, observations, instructions, schedule))
        forwards = float(np.mean([record.forwards for record in walked.records]))
        explanation = f"seconds a query: {query_s:.1f} s for {batch}, {forwards:.1f} video forwards each"
        yield Ratio(f"{name}, batch {batch}", query_s / batch, explanation)


def _query(wam: FrozenMixture, observations: list[Observation], instructions: list[str], schedule: Any) -> Any:
    context = wam.observe(observations, instructions)
    walked = walk(wam, context, schedule, list(range(len(observations))))
    wam.finish_actions(context, walked.end.actions)
    return walked


def _counted(work: Callable[[], Result]) -> tuple[Result, float, float]:
    """Return the result of `work`, its TFLOP, and the seconds of a second run that counts nothing."""
    with FlopCounterMode(display=False) as counter:
        work()
    result, seconds = _timed(work)
    return result, counter.get_total_flops() / 1e12, seconds


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    begin = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - begin


def _peak_gib(device: torch.device) -> float:
    """Return the most memory that this process had: of the GPU, or resident pages with those of mapped files."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB

"""Imagined futures of held-out observations, compared with what the cameras saw, for one or several schedules.

Every window is the beginning of a chunk of a demonstration on which nothing was trained, one window an episode. The
model imagines its own actions too: what it shows may differ from the demonstration because it does something else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np

from configs.schema import Config
from envs.cameras import RobotCameras
from envs.demonstrations import EpisodeReference, configured_episodes, read_episode
from envs.demonstrations.episodes import GOLDEN_RATIO
from policies.backbones.door import DepthWAM, FrozenWAM, Observation, Want
from policies.imagining import imagine
from policies.schedule import Schedule
from policies.walk import walk
from rl.evaluation.futures.clips import Clip, Future
from rl.evaluation.futures.clouds import Box, cloud_of
from rl.evaluation.futures.metrics import chamfer, depth_errors, picture_errors
from rl.experience.segments import history_of

WORKSPACE = Box((-0.6, -0.6, 0.70), (0.6, 0.6, 1.4))
"""The part of the built-in scene whose points are compared: the table with everything on and above it, in metres."""


@dataclass(frozen=True)
class Window:
    """An observation and what the cameras saw afterwards."""

    task: str
    episode: str  # the file
    start: int  # the control step of the observation
    observation: Observation
    instruction: str
    before: Observation  # the observations from the episode's first to this one
    true: Mapping[str, Clip]  # the T future moments of each camera


@dataclass
class WindowResult:
    """The measures of one window. A measure is NaN if the backbone or the machine cannot have it."""

    task: str
    psnr: float  # dB, mean over cameras and moments
    ssim: float
    lpips: float
    abs_rel: float  # mean over cameras
    delta_1: float
    chamfer: float  # metres, the points of all cameras at the last moment
    action_ms: float  # from the encoded observation to the actions, batch 1
    future_ms: float  # to the clean future with its depth, on top of it
    action_forwards: int
    future_forwards: int


def held_out_windows(config: Config, count: int, moments: int) -> list[Window]:
    """Read at most `count` windows of `moments` future pictures from the test split, spread over tasks and times.

    Raises ValueError if the demonstrations hold no depth.
    """
    episodes = configured_episodes(config.demonstrations, config.env.tasks, "test")
    chosen = [episodes[index] for index in np.linspace(0, len(episodes) - 1, min(count, len(episodes))).astype(int)]
    return [_window(reference, number, moments) for number, reference in enumerate(chosen)]


def _window(reference: EpisodeReference, number: int, moments: int) -> Window:
    episode = read_episode(reference, depth=True)
    if not episode.depths:
        raise ValueError(f"{reference.path} holds no depth: collect demonstrations with env.depth=true")
    last = max(0, len(episode) - moments)
    start = int(last * (number * GOLDEN_RATIO % 1.0))
    ahead = np.minimum(np.arange(start + 1, start + 1 + moments), len(episode))
    true = {
        name: Clip(
            rgb[ahead], episode.depths[name][ahead], track.intrinsics.astype(float), track.poses[ahead].astype(float)
        )
        for name, rgb in episode.images.items()
        for track in [episode.cameras[name]]
    }
    name, instruction = reference.path.name, episode.instruction
    return Window(reference.task, name, start, episode.at(start), instruction, episode.until(start), true)


def imagine_window(
    wam: FrozenWAM, schedule: Schedule, window: Window, cameras: RobotCameras, steps: int, seed: int
) -> tuple[Future, WindowResult]:
    """Imagine the future of a window with `steps` levels of the video's grid, and measure it.

    Wrist cameras are where the imagined joints put them (X-WAM 4.3.2): those of the imagined states if the backbone has
    states, those of the actions otherwise.
    """
    histories = [history_of(wam.spec, window.before)] if wam.spec.history_chunks else []
    context = wam.observe([window.observation], [window.instruction], histories)
    depth = Want.DEPTH in wam.spec.gives
    began = time.perf_counter()
    batch = walk(wam, context, schedule, [seed])
    acted = time.perf_counter()
    imagined = imagine(wam, context, batch.end, steps, depth=depth)
    ended = time.perf_counter()
    pictures = wam.imagined_pictures(imagined.latents)
    depths = cast(DepthWAM, wam).imagined_depths(imagined.depth) if imagined.depth is not None else {}
    states = getattr(wam, "imagined_states", None)
    joints = batch.actions[0] if states is None else states(context, batch.end.actions)[0]
    poses = cameras.camera_poses(joints[: len(next(iter(window.true.values())))])
    clips = {
        name: Clip(
            pictures[name][0],
            depths[name][0] if depths else np.zeros_like(true.depth),
            true.intrinsics,
            poses[name],
        )
        for name, true in window.true.items()
    }
    future = Future(window.true, clips)
    record = batch.records[0]
    result = WindowResult(
        window.task,
        **measured(future, depth),
        action_ms=1e3 * (acted - began),
        future_ms=1e3 * (ended - acted),
        action_forwards=record.forwards,
        future_forwards=imagined.forwards,
    )
    return future, result


def measured(future: Future, depth: bool) -> dict[str, float]:
    """Return the measures of `WindowResult` for one future. Those of depth and points are NaN without depth."""
    found = [picture_errors(future.imagined[name].rgb, true.rgb) for name, true in future.true.items()]
    learned = [math.nan if one.lpips is None else one.lpips for one in found]
    values = {
        "psnr": float(np.mean([one.psnr for one in found])),
        "ssim": float(np.mean([one.ssim for one in found])),
        "lpips": float(np.mean(learned)),
        **dict.fromkeys(("abs_rel", "delta_1", "chamfer"), math.nan),
    }
    if depth:
        errors = [
            depth_errors(future.imagined[name].depth, true.depth, (0.01, 10.0)) for name, true in future.true.items()
        ]
        clouds = [
            cloud_of((clip.at(len(clip) - 1) for clip in side.values()), WORKSPACE)
            for side in (future.imagined, future.true)
        ]
        values |= {
            "abs_rel": float(np.mean([one.abs_rel for one in errors])),
            "delta_1": float(np.mean([one.delta_1 for one in errors])),
            "chamfer": chamfer(clouds[0].points, clouds[1].points).distance,
        }
    return values


@dataclass(frozen=True)
class Mean:
    """A mean over windows with its 95% interval."""

    mean: float
    half: float  # 1.96 standard errors
    count: int


def summary(results: Sequence[WindowResult]) -> dict[str, Mean]:
    """Return the mean of every number over the windows."""
    columns = [asdict(result) for result in results]
    return {name: _mean([row[name] for row in columns]) for name in columns[0] if name != "task"}


def _mean(values: Sequence[float]) -> Mean:
    known = np.array([value for value in values if not math.isnan(value)], dtype=float)
    if not len(known):
        return Mean(math.nan, math.nan, 0)
    spread = float(known.std(ddof=1)) if len(known) > 1 else math.nan
    return Mean(float(known.mean()), 1.96 * spread / math.sqrt(len(known)), len(known))

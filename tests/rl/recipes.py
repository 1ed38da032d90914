"""Small configurations over the analytic backbone."""

from __future__ import annotations

from configs.schema import Config, SegmentsConfig
from rl.method import choose
from rl.objectives.path_ppo import PathPPOConfig


def analytic_settings(runners: int = 0, iterations: int = 4, seed: int = 42) -> Config:
    """A run that takes a second. `runners=0` keeps everything in the test's own process."""
    settings = choose("sants", "segments")
    settings.wam.backbone = "tests.analytic"
    settings.demonstrations.segments = "tests.analytic:load_segments"
    settings.rollout.runners = runners
    settings.rollout.restart_deadline_s = 60.0
    settings.collector = SegmentsConfig(paths_per_iteration=16, validation_paths=8)
    settings.objective = PathPPOConfig(minibatch_paths=8, learning_rate=3e-3, epochs=2)
    settings.reward["path"].calibration_segments = 16
    settings.validation.every = 0
    settings.validation.episodes_per_task = 0
    settings.run.seed, settings.run.iterations = seed, iterations
    settings.run.checkpoint_every = 2
    return settings


def closed_loop_settings(episodes: int) -> Config:
    """An evaluation of `episodes` toy episodes in the test's own process."""
    settings = analytic_settings()
    settings.env.simulator = "tests.toy_simulator:toy_spec"
    settings.env.tasks = ["click_bell"]
    settings.rollout.episodes_per_runner = 2
    settings.evaluation.processes = 0
    settings.evaluation.episodes_per_task = episodes
    settings.evaluation.segments = 4
    return settings

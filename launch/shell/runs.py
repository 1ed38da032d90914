"""The directory of a run, and the data that it needs."""

from __future__ import annotations

from pathlib import Path

from configs.schema import Config


def reads_demonstrations(config: Config) -> bool:
    """Whether a training run or its comparison compares actions with demonstrations."""
    from rl.method import needs_of
    from rl.reward import Need

    measured = bool(config.evaluation.schedules) and config.evaluation.segments > 0
    return Need.DEMONSTRATIONS in needs_of(config) or measured


def run_directory(config: Config) -> Path:
    """Return the directory of the run."""
    return Path(config.run.root) / config.run.name

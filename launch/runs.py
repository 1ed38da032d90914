"""Where a run and the parts of it live."""

from __future__ import annotations

from pathlib import Path

from configs.schema import Config

ABLATIONS = ("jump_only", "stop_only")  # the rows of the table that are trained beside the main schedule


def run_directory(config: Config) -> Path:
    return Path(config.run.root) / config.run.name


def schedule_directory(config: Config, kind: str) -> Path:
    """The main schedule owns the run directory; an ablation has a folder in it."""
    return run_directory(config) / ("" if kind == config.scheduler.kind else kind)

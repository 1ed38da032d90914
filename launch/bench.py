"""Measures the speed of every part, as ratios within one run."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from configs.schema import Config
from launch.shell.cli import load_config
from launch.shell.console import console, failures_are_messages, section
from launch.shell.runs import kept_run, run_directory

if TYPE_CHECKING:
    from launch.measuring.measurements import Ratio

DESCRIPTION = "Measure the speed of every part, as ratios within one run on this machine."


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    config = load_config(argv, DESCRIPTION, walks=lambda config: config.bench.weights == "stored")
    from launch.measuring.measurements import log_folder

    with failures_are_messages(log_folder(config)), kept_run(config):
        return run(config, argv)


def run(config: Config, argv: Sequence[str]) -> int:
    """Measure everything and return exit code 0, even if a target is missed: a shared machine may just be busy."""
    from launch.measuring import handing_over, measurements, published
    from policies.backbones import load_wam
    from policies.backbones.published.layout import LAYOUTS
    from policies.catalogue import build_schedule
    from rl.engine.cluster import ray_session
    from rl.evaluation.sources import ScheduleSource, weights_in

    if config.wam.backbone in LAYOUTS.all():
        section(f"Measuring {config.wam.backbone}, {config.bench.weights} weights")
        return report(config, published.measure(config))
    wam = load_wam(config.wam)
    if wam.spec.video_reads_action:  # no cascade and no path reward, which most of the parts need
        section(f"Measuring the walks of {config.wam.checkpoint}")
        return report(config, handing_over.measure(config, wam))
    segments = measurements.bench_segments(config, wam.spec)
    untrained = build_schedule(config.schedule.name, wam.spec, config.schedule)
    trained = weights_in(run_directory(config))
    schedule = ScheduleSource(config.schedule.name, trained).load(wam.spec, config.schedule)
    section(f"Measuring, with the {'trained' if trained else 'untrained'} schedule of {run_directory(config)}")
    ratios = [measurements.ragged_batch(wam, segments, untrained), measurements.latency(wam, segments, schedule)]
    if wam.spec.value is not None:
        ratios.append(measurements.planning(wam, segments, config.plan))
    ratios.append(measurements.chunk_stepping(config, config.env.tasks[0]))
    ratios += measurements.overlapping(config, wam)
    with ray_session(measurements.log_folder(config), config.rollout.runners):
        ratios += measurements.training(measurements.quiet(config), wam.spec)
        ratios.append(measurements.collecting_ahead(config, wam.spec))
    ratios.append(measurements.first_update(argv))
    return report(config, ratios)


def report(config: Config, ratios: Sequence[Ratio]) -> int:
    """Print and write the ratios, and return exit code 0."""
    from launch.measuring import measurements

    show(ratios)
    path = measurements.log_folder(config) / "bench.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(ratio) for ratio in ratios], indent=1) + "\n", encoding="utf-8")
    console.print(f"\n{path}")
    return 0


def show(ratios: Sequence[Ratio]) -> None:
    """Print the ratios as a table."""
    table = Table("what", "ratio", "target", "", "of", box=None)
    for ratio in ratios:
        verdict = {None: Text(), True: Text("met", "green"), False: Text("missed", "red")}[ratio.met]
        table.add_row(ratio.name, f"{ratio.value:.3g}", ratio.target, verdict, ratio.explanation)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())

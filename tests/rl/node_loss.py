"""A training on the cluster at `RAY_ADDRESS`, until a lost runner is back: `python -m tests.rl.node_loss DIRECTORY`.

It prints a line after every iteration. Its four slots make its results independent of the number of its runners.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from configs.schema import Config
from rl.engine.cluster import ray_session
from rl.runs.training import train
from tests.analytic import SPEC
from tests.rl.recipes import analytic_settings

RUNNERS = 2
MOST_ITERATIONS = 2000
AFTERWARDS = 3  # iterations after the runner is back


def settings_of(runners: int) -> Config:
    settings = analytic_settings(runners=runners, iterations=MOST_ITERATIONS)
    settings.rollout.slots, settings.rollout.placement = 4, "spread"
    settings.run.checkpoint_every = MOST_ITERATIONS
    return settings


def main() -> None:
    left = AFTERWARDS + 1

    def tell(iteration: int, metrics: Mapping[str, float]) -> None:
        nonlocal left
        healthy, reissued = metrics["runners/healthy"], metrics["runners/reissued"]
        sys.stdout.write(f"iteration {iteration} healthy {healthy:g} reissued {reissued:g}\n")
        sys.stdout.flush()
        if reissued and healthy == RUNNERS:
            left -= 1
        elif reissued:
            time.sleep(0.5)

    with ray_session(Path(sys.argv[1]), cpus=1):
        train(settings_of(RUNNERS), Path(sys.argv[1]), spec=SPEC, should_stop=lambda: left <= 0, on_iteration=tell)


if __name__ == "__main__":
    main()

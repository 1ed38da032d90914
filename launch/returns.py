"""Computes dense returns of recorded episodes: `python -m launch.returns [configs/<recipe>.yaml] [key=value ...]`.

They are computed once and stored beside the demonstrations; what has changed since is computed again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.schema import Config
from launch.shell.cli import load_config
from launch.shell.console import console, failures_are_messages
from launch.shell.progress import StageProgress

if TYPE_CHECKING:
    from rich.table import Table

    from rl.returns.computing import EpisodeReturns

DESCRIPTION = "Compute dense rewards and discounted returns of demonstrations and failures, for a value expert."


def main(argv: Sequence[str] | None = None) -> int:
    config = load_config(sys.argv[1:] if argv is None else argv, DESCRIPTION)
    with failures_are_messages(Path(config.demonstrations.root).parent):
        compute(config)
    return 0


def compute(config: Config) -> None:
    """Compute what is missing, and show the mean returns of every kind of episode."""
    import torch

    from rl.returns.computing import compute_returns, returns_folder

    torch.set_num_threads(config.wam.torch_threads)
    with StageProgress("returns", 0) as progress:
        found = compute_returns(config, progress.advance)
    console.print(summary(found.returns))
    told = f"{returns_folder(config)}: {len(found.returns)} episodes, {found.now} computed now"
    console.print(told, soft_wrap=True)


def summary(found: Sequence[EpisodeReturns]) -> Table:
    """The mean returns of the episodes of every kind and outcome."""
    import numpy as np
    from rich.table import Table

    table = Table("episodes of", "ended with", "number", "return at the start", "at the end", title="Dense returns")
    groups: dict[tuple[str, str], list[EpisodeReturns]] = {}
    for one in found:
        outcome = "success" if one.reference.succeeded else "failure"
        groups.setdefault((one.reference.kind, outcome), []).append(one)
    for (kind, outcome), episodes in groups.items():
        first, last = (float(np.mean([one.returns[place] for one in episodes])) for place in (0, -1))
        table.add_row(kind, outcome, str(len(episodes)), f"{first:.2f}", f"{last:.2f}")
    return table


if __name__ == "__main__":
    sys.exit(main())

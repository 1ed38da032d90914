"""Numbers a person looks at, from what the runners sent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.outcomes import Outcome
from rl.records import EpisodeRecord, PathBatch, count_outcomes
from rl.rewards import PathReward

POLICY_OUTCOMES = (str(Outcome.success), str(Outcome.step_limit))


def path_metrics(group: str, paths: PathBatch, reward: PathReward) -> dict[str, float]:
    """Return and its parts, updates, stop and jump statistics of at least one completed path."""
    stop, stop_free, jump_free = (paths.decisions[name] for name in ("stop", "stop_free", "jump_free"))
    ratio = paths.decisions["ratio"]
    stopped = np.array([bool(flags[-1]) if len(flags) else False for flags in paths.split("stop")])
    metrics = {
        "return": reward.total.mean(),
        "quality": reward.quality.mean(),
        "quality_seq": reward.quality_sequence.mean(),
        "quality_dif": reward.quality_difference.mean(),
        "gain_seq": reward.gain_sequence.mean(),
        "cost": reward.cost.mean(),
        "updates": paths.updates.mean(),
        "updates_p05": np.quantile(paths.updates, 0.05),
        "updates_p95": np.quantile(paths.updates, 0.95),
        "forwards": paths.forwards.mean(),
        "final_sigma": paths.final_sigma.mean(),
        "stop_rate": stop[stop_free].mean() if stop_free.any() else np.nan,
        "forced_stops": 1 - stopped.mean(),
        "jump_ratio": ratio[jump_free].mean() if jump_free.any() else np.nan,
        "jump_ratio_std": ratio[jump_free].std() if jump_free.any() else np.nan,
    }
    prefix = f"{group}/" if group else ""
    return {f"{prefix}{name}": float(value) for name, value in metrics.items()}


def outcome_metrics(group: str, outcomes: Sequence[str]) -> dict[str, float]:
    prefix = f"{group}/" if group else ""
    return {f"{prefix}outcome_{name}": float(count) for name, count in count_outcomes(outcomes).items()}


def episode_metrics(episodes: Sequence[EpisodeRecord]) -> dict[str, float]:
    """Success over the episodes that say something about the policy, and every outcome's count."""
    metrics = outcome_metrics("", [episode.outcome for episode in episodes])
    counted = [episode for episode in episodes if episode.outcome in POLICY_OUTCOMES]
    if counted:
        metrics["success"] = success_rate(counted)
        metrics["episode_updates"] = float(np.mean([count for episode in counted for count in episode.updates]))
        for task in sorted({episode.task for episode in counted}):
            metrics[f"success_{task}"] = success_rate([episode for episode in counted if episode.task == task])
    return metrics


def success_rate(episodes: Sequence[EpisodeRecord]) -> float:
    return float(np.mean([episode.outcome == Outcome.success for episode in episodes]))

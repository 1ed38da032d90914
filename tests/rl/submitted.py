"""A small training on the analytic backbone, as a job that a user submits to a cluster."""

from __future__ import annotations

from pathlib import Path

from tests.ray_cluster import RayCluster

SMALL = [
    "wam.backbone=tests.analytic", "demonstrations.segments=tests.analytic:load_segments", "evaluation.schedules=[]",
    "env.simulator=tests.toy_simulator:toy_spec", "validation.every=0", "validation.episodes_per_task=0",
    "collector.paths_per_iteration=16", "collector.paths_per_segment=1", "collector.stops=sampled",
    "collector.validation_paths=4", "objective.baseline=moving_average", "objective.minibatch_paths=16",
    "reward.path.calibration_segments=8", "run.checkpoint_every=2", "rollout.runners=1",
]  # fmt: skip


def submission(cluster: RayCluster, shared: Path, *arguments: str) -> list[str]:
    call = ["-m", "launch.job", "submit", f"ADDRESS={cluster.dashboard}", f"SHARED={shared}", "CARRY=tests"]
    return [*call, "train", "configs/sants.yaml", *SMALL, *arguments]

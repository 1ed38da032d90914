"""The keys of earlier versions, so that an old recipe is refused with the new name of each of its keys."""

from __future__ import annotations

_COLLECTOR = ("paths_per_iteration", "paths_per_segment", "max_segments", "overlap", "asynchronous", "max_staleness")
_ACTION_ERROR = (
    "position_weight", "rotation_weight", "gripper_weight", "position_unit_m", "rotation_unit_rad",
    "gripper_event_threshold", "gripper_event_weight", "fast_motion_weight", "fast_motion_quantile",
)  # fmt: skip

MOVED = {
    "scheduler.kind": "schedule.name",
    "ppo.jump_log_prob_scale": "schedule.jump_log_prob_scale",
    "ppo.reference_stop_probability": "schedule.reference_stop_probability",
    "groups.max_equal_iterations": "objective.max_equal_iterations",
    "rollout.segments": "demonstrations.segments",
    "rollout.segment_stride": "demonstrations.segment_stride",
    "rollout.segment_split": "collector.split",
    "rollout.segment_noise_seeds": "collector.noise_seeds",
    "validation.paths": "collector.validation_paths",
    "reward.cost_weight": "reward.cost.weight",
    "reward.cost_ramp_fraction": "reward.cost.ramp_fraction",
    "wam.factory": "wam.backbone",
    "wam.family": "wam.backbone",
    **{f"rollout.{name}": f"collector.{name}" for name in _COLLECTOR},
    **{f"reward.{name}": f"action_error.{name}" for name in _ACTION_ERROR},
}
GONE = {
    "reward.update_cost": "Leave reward.cost out, or set reward.cost=null.",
    "grpo.entropy_samples": "Leave it out: the entropy is integrated, not sampled.",
    "run.train_ablations": "Leave it out: `make ablate-sants` trains the ablations.",
}
SECTIONS = {
    "scheduler.gate.": "schedule.",
    "scheduler.": "schedule.",
    "ppo.": "objective.",
    "grpo.": "objective.",
    "groups.": "collector.",
    "reward.": "reward.path.",
    "env.robotwin.": "env.options.",
}


def fix_of(key: str) -> str | None:
    """Return what to write instead of a key of an earlier version, or None if it is not such a key."""
    if key in GONE:
        return GONE[key]
    new = MOVED.get(key)
    if new is None:
        new = next((new + key.removeprefix(old) for old, new in SECTIONS.items() if key.startswith(old)), None)
    return None if new is None else f"It is called {new} now."

"""An algorithm's state as a checkpoint, and back: exactly, so that a resumed run goes on as if it had never stopped."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from ray.rllib.core import (
    COMPONENT_LEARNER,
    COMPONENT_LEARNER_GROUP,
    COMPONENT_OPTIMIZER,
    COMPONENT_RL_MODULE,
    DEFAULT_MODULE_ID,
)
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO
from ray.tune.result import TRAINING_ITERATION
from torch import Tensor

from rl.algorithms.sants import SantsAlgorithm
from rl.checkpoints import Checkpoint, CheckpointError
from rl.modules import PREFIX
from rl.records import ANCHOR_FIELDS
from rl.rewards import Calibration

logger = logging.getLogger(__name__)

FREE_TO_CHANGE = ("run.", "rollout.runners", "rollout.gpus", "rollout.max_", "rollout.restart", "evaluation.")
SEGMENT_KEYS = ("segments", "segment_split", "segment_stride", "max_segments")


def snapshot(algorithm: SantsAlgorithm) -> Checkpoint:
    """Everything that the next iteration depends on."""
    state = algorithm.learner_group.get_state(components=COMPONENT_LEARNER)[COMPONENT_LEARNER]
    weights = state[COMPONENT_RL_MODULE][DEFAULT_MODULE_ID]
    keys = sorted(algorithm.anchors)
    return Checkpoint(
        scheduler={name.removeprefix(PREFIX): torch.as_tensor(value) for name, value in weights.items()},
        optimizer=_pack_optimizer(state[COMPONENT_OPTIMIZER]),
        anchors={
            "keys": torch.tensor(keys, dtype=torch.int64).reshape(len(keys), 2),
            "errors": torch.tensor(np.array([algorithm.anchors[key] for key in keys])).reshape(-1, len(ANCHOR_FIELDS)),
        },
        state={
            "iteration": algorithm.iteration,
            "weights_version": int(state[WEIGHTS_SEQ_NO]),
            "baseline": algorithm.baseline,
            "calibration": None if algorithm.calibration is None else dataclasses.asdict(algorithm.calibration),
            "backbone_hash": algorithm.wam_spec.weights_hash,
        },
        config=dataclasses.asdict(algorithm.settings),
    )


def restore(algorithm: SantsAlgorithm, checkpoint: Checkpoint) -> None:
    """Into a freshly built algorithm. `CheckpointError` for another backbone or scheduler, before anything changes."""
    if algorithm.iteration:
        raise RuntimeError("restore needs a freshly built algorithm: RLlib keeps newer weights otherwise")
    check_fits(checkpoint, algorithm)
    state = algorithm.learner_group.get_state(components=COMPONENT_LEARNER)[COMPONENT_LEARNER]
    learner = {
        COMPONENT_RL_MODULE: {
            DEFAULT_MODULE_ID: {f"{PREFIX}{name}": value.numpy() for name, value in checkpoint.scheduler.items()}
        },
        COMPONENT_OPTIMIZER: _unpack_optimizer(checkpoint.optimizer, state[COMPONENT_OPTIMIZER]),
        WEIGHTS_SEQ_NO: checkpoint.state["weights_version"],
    }
    algorithm.set_state(
        {COMPONENT_LEARNER_GROUP: {COMPONENT_LEARNER: learner}, TRAINING_ITERATION: checkpoint.iteration}
    )
    calibration = checkpoint.state["calibration"]
    algorithm.baseline = checkpoint.state["baseline"]
    algorithm.calibration = None if calibration is None else Calibration(**calibration)
    algorithm.anchors = unpack_anchors(checkpoint)
    algorithm.broadcast()


def unpack_anchors(checkpoint: Checkpoint) -> dict[tuple[int, int], np.ndarray[Any, np.dtype[np.float64]]]:
    keys, errors = checkpoint.anchors["keys"].tolist(), checkpoint.anchors["errors"].numpy()
    return {(segment, noise_seed): row for (segment, noise_seed), row in zip(keys, errors, strict=True)}


def take_anchors(algorithm: SantsAlgorithm, checkpoint: Checkpoint) -> None:
    """Start with another run's anchors; without them where its backbone or its errors were not ours."""
    ours, theirs = dataclasses.asdict(algorithm.settings), checkpoint.config
    same = all(ours[part] == theirs.get(part) for part in ("env", "demonstrations", "reward"))
    same = same and all(ours["rollout"][key] == theirs["rollout"].get(key) for key in SEGMENT_KEYS)
    if same and checkpoint.backbone_hash == algorithm.wam_spec.weights_hash:
        algorithm.anchors = unpack_anchors(checkpoint)


def check_fits(checkpoint: Checkpoint, algorithm: SantsAlgorithm) -> None:
    """Refuse another backbone or network; name changed settings in a warning."""
    where = checkpoint.path or "the checkpoint"
    if checkpoint.backbone_hash != algorithm.wam_spec.weights_hash:
        raise CheckpointError(
            f"{where} was trained on the backbone {checkpoint.backbone_hash}, this run loads "
            f"{algorithm.wam_spec.weights_hash}. Set wam.checkpoint to that backbone, or run.resume=never in a new run."
        )
    current = snapshot(algorithm).scheduler
    for name in sorted({*current, *checkpoint.scheduler}):
        ours, theirs = (_shape(part.get(name)) for part in (current, checkpoint.scheduler))
        if ours != theirs:
            raise CheckpointError(
                f"{where} holds a scheduler of another shape: {name} is {theirs} there and {ours} here. "
                "Use its scheduler.trunk_widths, or start a new run."
            )
    changed = sorted(_changed_keys(checkpoint.config, dataclasses.asdict(algorithm.settings)))
    if changed:
        logger.warning("Resuming %s under changed settings: %s", where, ", ".join(changed))


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in new.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _changed_keys(old.get(key) or {}, value, f"{path}.")
        elif old.get(key) != value and not path.startswith(FREE_TO_CHANGE):
            yield path


def _pack_optimizer(optimizers: Mapping[str, Any]) -> dict[str, Tensor]:
    """`<optimizer>/<parameter>/<buffer>`: the settings of the parameter groups come from the configuration."""
    return {
        f"{name}/{index}/{buffer}": torch.as_tensor(value)
        for name, optimizer in optimizers.items()
        for index, buffers in optimizer["state"]["state"].items()
        for buffer, value in buffers.items()
    }


def _unpack_optimizer(packed: Mapping[str, Tensor], fresh: Mapping[str, Any]) -> dict[str, Any]:
    unpacked: dict[str, Any] = {
        name: {**optimizer, "state": {**optimizer["state"], "state": {}}} for name, optimizer in fresh.items()
    }
    for path, value in packed.items():
        name, index, buffer = path.rsplit("/", 2)
        unpacked[name]["state"]["state"].setdefault(int(index), {})[buffer] = value.numpy()
    return unpacked

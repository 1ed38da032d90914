"""Converts the state of an algorithm to a checkpoint and back, exactly: a resumed run ends as one never stopped."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

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

from policies.learning import LearnedSchedule
from rl.algorithm import ScheduleAlgorithm
from rl.engine.module import PREFIX
from rl.runs.checkpoints import Checkpoint, CheckpointError
from rl.runs.settings import changed_settings, check_backbone

logger = logging.getLogger(__name__)


def snapshot(algorithm: ScheduleAlgorithm) -> Checkpoint:
    """Return a checkpoint with everything that the next iteration depends on. Later iterations do not change it."""
    state = algorithm.learner_group.get_state(components=COMPONENT_LEARNER)[COMPONENT_LEARNER]
    weights = state[COMPONENT_RL_MODULE][DEFAULT_MODULE_ID]
    tensors, values = algorithm.extra_state()
    return Checkpoint(
        scheduler={name.removeprefix(PREFIX): torch.tensor(value) for name, value in weights.items()},
        optimizer=_pack_optimizer(state[COMPONENT_OPTIMIZER]),
        anchors=tensors,
        state={
            "iteration": algorithm.iteration,
            "weights_version": int(state[WEIGHTS_SEQ_NO]),
            "backbone_hash": algorithm.wam_spec.weights_hash,
            **copy.deepcopy(values),
        },
        config=dataclasses.asdict(algorithm.settings),
    )


def restore(algorithm: ScheduleAlgorithm, checkpoint: Checkpoint) -> None:
    """Restore a checkpoint into a new algorithm. Raise `CheckpointError`, before any change, if it does not fit."""
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
    algorithm.restore_extra_state(checkpoint)
    algorithm.broadcast()


def start_from(algorithm: ScheduleAlgorithm, trained: LearnedSchedule[Any, Any]) -> None:
    """Give a new algorithm the weights of a trained schedule. Raise ValueError if its settings are others."""
    ours, theirs = (dataclasses.asdict(one) for one in (algorithm.settings.schedule, trained.settings))
    if different := [f"schedule.{key}={value}" for key, value in theirs.items() if ours.get(key) != value]:
        raise ValueError(
            f"run.start_from: these weights were trained under other schedule settings. Use {' '.join(different)}."
        )
    weights = {f"{PREFIX}{name}": value.numpy() for name, value in trained.policy.state_dict().items()}
    learner = {
        COMPONENT_RL_MODULE: {DEFAULT_MODULE_ID: weights},
        WEIGHTS_SEQ_NO: algorithm.weights_version + 1,  # runners take only weights of another version
    }
    algorithm.set_state({COMPONENT_LEARNER_GROUP: {COMPONENT_LEARNER: learner}})
    algorithm.broadcast()


def check_fits(checkpoint: Checkpoint, algorithm: ScheduleAlgorithm) -> None:
    """Raise `CheckpointError` for another backbone or another shape of the policy. Warn of changed settings."""
    where = checkpoint.path or "the checkpoint"
    check_backbone(checkpoint, algorithm.wam_spec)
    current = snapshot(algorithm).scheduler
    for name in sorted({*current, *checkpoint.scheduler}):
        ours, theirs = (tuple(part[name].shape) if name in part else None for part in (current, checkpoint.scheduler))
        if ours != theirs:
            raise CheckpointError(
                f"{where} holds a schedule of another shape: {name} is {theirs} there and {ours} here. "
                "Use the schedule settings of its config.json, or start a new run."
            )
    changed = changed_settings(checkpoint, algorithm.settings, algorithm.collector.identities)
    if changed:
        logger.warning("Resuming %s under changed settings: %s", where, ", ".join(changed))


def _pack_optimizer(optimizers: Mapping[str, Any]) -> dict[str, Tensor]:
    """Name every buffer `<optimizer>/<parameter>/<buffer>`. Parameter groups are rebuilt from the configuration."""
    return {
        f"{name}/{index}/{buffer}": torch.as_tensor(value).clone()
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

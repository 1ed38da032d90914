"""Room on a cluster: every worker is given the same bundle of cores and GPUs, and all of them are reserved together."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.util import placement_group, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from configs.schema import RolloutConfig

logger = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""The seconds after which it is said that a run waits."""
_POLL_S = 0.5


class ClusterError(RuntimeError):
    """There is no cluster at `RAY_ADDRESS`, or it has no room for the run."""


@dataclass(frozen=True)
class Room:
    """What each worker is given, and the reservation that holds it for all of them."""

    bundle: dict[str, float]
    group: PlacementGroup | None = None  # None: nothing is reserved

    @property
    def cpus(self) -> float:
        return self.bundle.get("CPU", 0.0)

    @property
    def gpus(self) -> float:
        return self.bundle.get("GPU", 0.0)

    @property
    def strategy(self) -> Any:
        """Ray's scheduling strategy for an actor that lives in this room."""
        return PlacementGroupSchedulingStrategy(self.group) if self.group is not None else "DEFAULT"

    def options(self) -> dict[str, Any]:
        """Return the options of a Ray actor that lives in this room."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "scheduling_strategy": self.strategy}


def node_name() -> str:
    """Return how messages name the node of this process: its address, and the beginning of Ray's name of it."""
    if not ray.is_initialized():
        return "this machine"
    return f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:6]})"


def is_joined() -> bool:
    """Whether this process joins a cluster, which others may use too, instead of starting its own."""
    return os.environ.get("RAY_ADDRESS", "") not in ("", "local")


def bundle_of(rollout: RolloutConfig, simulators: int) -> dict[str, float]:
    """Return what one worker needs: a core, or a core for each of its simulators on a cluster that others use too.

    On a cluster of its own, a run may use its cores as densely as it likes.
    """
    cpus = max(1.0, rollout.cpus_per_simulator * simulators) if is_joined() else 1.0
    return {"CPU": cpus, "GPU": rollout.gpus_per_runner} if rollout.gpus_per_runner else {"CPU": cpus}


@contextmanager
def reserve(
    key: str, rollout: RolloutConfig, workers: int, should_stop: Callable[[], bool], simulators: int = 0
) -> Iterator[Room | None]:
    """Hold room for all workers during the block. Ray must be running.

    `key` is the setting that asks for so many workers, each with so many simulators. Yields None if `should_stop`
    returns true before there is room. Raises `ClusterError`, with what is asked for and what there is: at once if a
    cluster of its own never had so much, else after `rollout.room_deadline_s`, since others may leave or nodes come.
    """
    room = Room(bundle_of(rollout, simulators))
    if not workers:
        yield room
        return
    if not is_joined() and not _fits(room.bundle, workers):
        raise ClusterError(_refusal(key, room.bundle, workers, rollout.room_deadline_s))
    group = placement_group([room.bundle] * workers, strategy=rollout.placement.upper())
    try:
        placed = _wait(group, key, room.bundle, workers, rollout.room_deadline_s, should_stop)
        yield Room(room.bundle, group) if placed else None
    finally:
        remove_placement_group(group)


def _wait(
    group: PlacementGroup,
    key: str,
    bundle: dict[str, float],
    workers: int,
    deadline_s: float,
    should_stop: Callable[[], bool],
) -> bool:
    """Wait until the group is placed. Returns False if `should_stop` returns true before."""
    begin, silent = time.monotonic(), True
    while not group.wait(_POLL_S):
        if should_stop():
            return False
        waited = time.monotonic() - begin
        if waited > deadline_s:
            raise ClusterError(_refusal(key, bundle, workers, deadline_s))
        if silent and waited > PATIENCE_S:
            silent = False
            logger.warning("Waiting for room for %s=%d.\n%s", key, workers, _table(bundle, workers))
    return True


def _refusal(key: str, bundle: dict[str, float], workers: int, deadline_s: float) -> str:
    fix = (
        f"Lower {key}, rollout.gpus_per_runner or rollout.episodes_per_runner, or join a larger cluster by RAY_ADDRESS."
    )
    table = _table(bundle, workers)
    if not _fits(bundle, workers):
        grows = " A cluster that adds nodes needs a longer rollout.room_deadline_s." if is_joined() else ""
        return f"There is no room for {key}={workers}.\n{table}\n{fix}{grows}"
    return (
        f"Other jobs left no room for {key}={workers} within {deadline_s:g} s.\n{table}\n"
        f"Start again when they are done. {fix}"
    )


def _fits(bundle: dict[str, float], workers: int) -> bool:
    """Whether the nodes could hold all workers if nothing else ran on them."""
    return sum(capacity(node["Resources"], bundle) for node in ray.nodes() if node["Alive"]) >= workers


def capacity(node: dict[str, float], bundle: dict[str, float]) -> int:
    """Return how many workers a node can hold when nothing else runs on it. A GPU is shared, but never split."""
    rooms = []
    for name, amount in bundle.items():
        there = node.get(name, 0.0)
        whole = amount >= 1 or name == "CPU"
        rooms.append(int(there / amount + 1e-9) if whole else int(there) * int(1 / amount + 1e-9))
    return min(rooms)


def _table(bundle: dict[str, float], workers: int) -> str:
    """Return asked against available, in all and for each node, since a bundle must fit on one node."""
    there, free = ray.cluster_resources(), ray.available_resources()
    each = ", ".join(f"{amount:g} {name}" for name, amount in bundle.items())
    rows = [f"{'':5}{'asked':>10}{'there is':>10}{'free':>10}"]
    rows += [
        f"{name:5}{amount * workers:>10g}{there.get(name, 0):>10g}{free.get(name, 0):>10g}"
        for name, amount in bundle.items()
    ]
    nodes = [node for node in ray.nodes() if node["Alive"]]
    rows.append(f"Each of {workers} needs {each} on one node. Nodes that hold how many of them:")
    rows += [f"  {node['NodeManagerAddress']}: {capacity(node['Resources'], bundle)}" for node in nodes[:16]]
    return "\n".join(rows)

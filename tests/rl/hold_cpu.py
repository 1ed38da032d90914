"""Another job on the cluster at `RAY_ADDRESS`, which holds one core of the head until it is killed."""

from __future__ import annotations

import time

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def main() -> None:
    ray.init(log_to_driver=False)
    head = next(node["NodeID"] for node in ray.nodes() if "node:__internal_head__" in node["Resources"])
    hold = ray.remote(_hold)
    ray.get(hold.options(scheduling_strategy=NodeAffinitySchedulingStrategy(head, soft=False)).remote())


def _hold() -> None:
    while True:
        time.sleep(1)


if __name__ == "__main__":
    main()

"""The RLlib module around a scheduler network."""

from __future__ import annotations

from typing import Any

from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor

from policies.schedules.sants import SchedulerNetwork, SchedulerOutput, build_network

PREFIX = "network."


class SchedulerModule(TorchRLModule):
    """Holds the network and nothing else, so that a broadcast is the scheduler's bytes.

    `model_config`: `spec`, the backbone's `WAMSpec`; `scheduler`, a `SchedulerConfig`.
    """

    network: SchedulerNetwork

    def setup(self) -> None:
        self.network = build_network(self.model_config["spec"], self.model_config["scheduler"])

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """`batch`: pooled float32 [..., D] and sigma float32 [...]."""
        output = self.network(batch["pooled"], batch["sigma"])
        return {"hazard": output.hazard, "mode": output.mode, "concentration": output.concentration}

    def output_of(self, forward: dict[str, Tensor]) -> SchedulerOutput:
        """The network's own type again, from what `_forward` returned."""
        return SchedulerOutput(forward["hazard"], forward["mode"], forward["concentration"])

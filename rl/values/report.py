"""What a value expert is measured by on held-out futures."""

from __future__ import annotations

from typing import Any

from configs.value import ValueTrainingConfig
from policies.backbones.tiny.model import FrozenWorldActionModel
from rl.values.futures import Futures
from rl.values.predicting import LEVELS, WALKED, predict_imagined, predict_recorded
from rl.values.training import held_out_loss


def measured(wam: FrozenWorldActionModel, held_out: Futures, config: ValueTrainingConfig) -> dict[str, Any]:
    """Measure the backbone's value expert: its loss, and how its predictions agree with true returns, as JSON values.

    `recorded` are futures that really came, `imagined` those that the policy imagined and acted on.
    """
    assert wam.value is not None
    found: dict[str, Any] = {"loss": held_out_loss(wam, wam.value, held_out, config), "futures": len(held_out)}
    found["recorded"] = {
        name: predict_recorded(wam, held_out, level).agreement.to_json() for name, level in LEVELS.items()
    }
    if held_out.noise_seeds:
        found["imagined"] = {
            name: predict_imagined(wam, held_out, level).agreement.to_json() for name, level in WALKED.items()
        }
    return found

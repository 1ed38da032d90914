"""The RLlib learner: AdamW on the path PPO loss. Numbers that are not finite stop it before the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from torch import Tensor

from rl.modules import SchedulerModule
from rl.objectives import PathLoss, PathTensors, loss_of_output

PATH_INDEX = "path_index"
KL_WEIGHT = "kl_weight"
GRADIENT_NORM = "gradients_default_optimizer_global_norm"
_MEANS = ("policy", "stop_kl", "jump_kl", "approximate_kl", "clip_fraction", "ratio_mean")


class NotFiniteError(FloatingPointError):
    """A loss or a gradient is NaN or infinite. No step was made with it; `paths` are rows of the batch."""

    def __init__(self, what: str, paths: Sequence[int], names: Sequence[str] = ()) -> None:
        named = "; ".join(names) or list(paths)
        super().__init__(f"{what} is not finite; the update stopped before the step. Paths of the minibatch: {named}")
        self.what, self.paths, self.names = what, paths, names

    def __reduce__(self) -> tuple[type[NotFiniteError], tuple[str, Sequence[int], Sequence[str]]]:
        return type(self), (self.what, self.paths, self.names)


class SantsLearner(TorchLearner):
    """Path PPO. One row of a batch is one path: `PathTensors`' fields, `path_index` and `kl_weight`."""

    _minibatch_paths: list[int]

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        ppo = config.settings.ppo
        parameters = list(self._module[module_id].parameters())
        optimizer = torch.optim.AdamW(parameters, lr=ppo.learning_rate, weight_decay=ppo.weight_decay)
        self.register_optimizer(
            module_id=module_id, optimizer=optimizer, params=parameters, lr_or_lr_schedule=ppo.learning_rate
        )

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: Mapping[str, Tensor], fwd_out: Mapping[str, Tensor]
    ) -> Tensor:
        module: SchedulerModule = self.module[module_id].unwrapped()
        self._minibatch_paths = [int(index) for index in batch[PATH_INDEX]]
        paths = PathTensors(**{entry.name: batch[entry.name] for entry in fields(PathTensors)})
        reference = module.network.reference_mode(paths.sigma)
        kl_weight = float(batch[KL_WEIGHT][0])
        loss = loss_of_output(module.output_of(dict(fwd_out)), reference, paths, kl_weight, config.settings.ppo)
        self._check_loss(loss)
        self._log(module_id, loss, window=config.minibatches_per_update)
        return loss.total

    def postprocess_gradients_for_module(
        self, *, module_id: str, config: Any = None, module_gradients_dict: dict[Any, Tensor]
    ) -> dict[Any, Tensor]:
        if not all(bool(torch.isfinite(gradient).all()) for gradient in module_gradients_dict.values()):
            raise NotFiniteError("A gradient", self._minibatch_paths)
        return super().postprocess_gradients_for_module(
            module_id=module_id, config=config, module_gradients_dict=module_gradients_dict
        )

    def _check_loss(self, loss: PathLoss) -> None:
        broken = [path for path, ok in zip(self._minibatch_paths, torch.isfinite(loss.ratio), strict=True) if not ok]
        if broken:
            raise NotFiniteError("The probability ratio", broken)
        if not torch.isfinite(loss.total):
            raise NotFiniteError("The loss", self._minibatch_paths)

    def _log(self, module_id: str, loss: PathLoss, window: int) -> None:
        for name in _MEANS:
            self.metrics.log_value((module_id, name), getattr(loss, name).item(), window=window)
        self.metrics.log_value((module_id, "ratio_max"), loss.ratio_max.item(), reduce="max", window=window)

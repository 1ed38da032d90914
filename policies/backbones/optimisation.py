"""How a backbone is trained: AdamW, its learning rate, the average of the weights, and going on after a stop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from policies.backbones.resuming import SAVE_EVERY, ResumePoint

WARMUP = 100
CURVE_EVERY = 50  # steps; SAVE_EVERY is a multiple of it


@dataclass
class Curve:
    """The loss curve of a training: steps, mean losses since the point before, and seconds since the start."""

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


OnProgress = Callable[[int, int, float], None]
"""Called with the steps done, all steps and the mean loss."""


class Optimisation:
    """AdamW with warm-up and cosine decay, gradient clipping and an exponential moving average of the weights."""

    def __init__(
        self, module: nn.Module, steps: int, learning_rate: float, ema_decay: float, generator: Generator | None = None
    ) -> None:
        """`generator` is the one that the losses draw from. It is saved if the training can be resumed."""
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
        self.steps, self.learning_rate, self.generator = steps, learning_rate, generator
        self.ema = [p.detach().clone() for p in self.parameters]
        self.ema_decay = ema_decay
        self.taken = 0

    def step(self, loss: Tensor) -> None:
        """Make one optimizer step. Raise FloatingPointError, before the step, if the gradient is not finite."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"pretraining: gradient norm {norm.item()} at step {self.taken}")
        self.optimizer.param_groups[0]["lr"] = self.learning_rate * _rate_left(self.taken, self.steps)
        self.optimizer.step()
        self.taken += 1
        decay = min(self.ema_decay, (1 + self.taken) / (10 + self.taken))
        torch._foreach_lerp_(self.ema, list[Tensor](self.parameters), 1 - decay)

    @torch.no_grad()
    def keep_average(self) -> None:
        """Replace the parameters by their moving average."""
        for parameter, average in zip(self.parameters, self.ema, strict=True):
            parameter.copy_(average)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that the next step depends on. `go_on_from` takes them back."""
        moments = self.optimizer.state_dict()["state"]
        named = {f"optimizer.{index}.{name}": value for index in moments for name, value in moments[index].items()}
        for name, values in (("parameters", self.parameters), ("ema", self.ema)):
            named |= {f"{name}.{index}": value.detach() for index, value in enumerate(values)}
        return named if self.generator is None else {**named, "generator": self.generator.get_state()}

    @torch.no_grad()
    def go_on_from(self, tensors: dict[str, Tensor], taken: int) -> None:
        """Restore the state that `tensors` returned after `taken` steps."""
        moments: dict[int, dict[str, Tensor]] = {}
        for index, (parameter, average) in enumerate(zip(self.parameters, self.ema, strict=True)):
            parameter.copy_(tensors[f"parameters.{index}"])
            average.copy_(tensors[f"ema.{index}"])
            prefix = f"optimizer.{index}."
            moments[index] = {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        if self.generator is not None:
            self.generator.set_state(tensors["generator"])
        self.taken = taken


def _rate_left(step: int, steps: int) -> float:
    """Return the share of the learning rate at `step`: linear warm-up and cosine decay to 2%."""
    return min(1.0, (step + 1) / WARMUP) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))


@contextlib.contextmanager
def fast_training(enabled: bool) -> Iterator[None]:
    """Use bfloat16 matrix products. On the CPU, also use the plain attention kernel, whose backward is much faster."""
    kernels = [SDPBackend.MATH] if not torch.cuda.is_available() else list(SDPBackend.__members__.values())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with sdpa_kernel(kernels), torch.autocast(device, torch.bfloat16, enabled=enabled):
        yield


@contextlib.contextmanager
def compiled(methods: list[tuple[nn.Module, str]], enabled: bool) -> Iterator[None]:
    """Run the methods as fused kernels. On the CPU this needs a C++ compiler, and the first calls are slow."""
    for owner, name in methods if enabled else []:
        setattr(owner, name, torch.compile(getattr(owner, name), dynamic=False))
    try:
        yield
    finally:
        for owner, name in methods if enabled else []:
            delattr(owner, name)


def run_steps(
    optimisation: Optimisation,
    loss_of: Callable[[], Tensor],
    progress: OnProgress,
    point: ResumePoint | None = None,
) -> Curve:
    """Make the steps that are left, and save the state to `point` now and then. Returns the whole curve.

    Raises KeyboardInterrupt, after saving the state, if the point says that the stage should stop.
    """
    curve, recent, steps = Curve(), [], optimisation.steps
    saved = None if point is None else point.load(Curve)
    if saved is not None:
        tensors, curve = saved
        optimisation.go_on_from(tensors, curve.steps[-1])
    began = time.monotonic() - (curve.seconds[-1] if curve.seconds else 0.0)
    for step in range(optimisation.taken + 1, steps + 1):
        loss = loss_of()
        optimisation.step(loss)
        recent.append(loss.item())
        if step % CURVE_EVERY == 0 or step == steps:
            curve.steps.append(step)
            curve.losses.append(float(np.mean(recent)))
            curve.seconds.append(round(time.monotonic() - began, 1))
            recent.clear()
            progress(step, steps, curve.losses[-1])
            stopping = point is not None and point.should_stop()
            if point is not None and (stopping or step % SAVE_EVERY == 0):
                point.save(optimisation.tensors(), asdict(curve))
            if stopping:
                raise KeyboardInterrupt
    optimisation.keep_average()
    return curve

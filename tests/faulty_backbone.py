"""The analytic backbone, with latents that are NaN for some seeds, and with what a marker file asks for, once."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from configs.schema import WAMConfig
from policies.backbones.door import WAMSpec
from tests.analytic import SPEC, AnalyticContext, AnalyticWAM

MARKER = "FAULT_MARKER"  # the environment's name of the file
NAN_EVERY = 13
SLOW_S = 1.0


class FaultyWAM(AnalyticWAM):
    def initial_noise(self, context: AnalyticContext, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        misbehave_once()
        x, actions = super().initial_noise(context, seeds)
        x[torch.tensor(seeds) % NAN_EVERY == 0] = float("nan")
        return x, actions


def misbehave_once() -> None:
    """Do what the marker file says. Of several processes only the one that takes it away does."""
    marker = Path(os.environ[MARKER])
    if not marker.exists():
        return
    with suppress(FileNotFoundError):
        mine = marker.rename(marker.with_name(f"{marker.name}.{os.getpid()}"))
        fault = mine.read_text()
        mine.unlink()
        match fault:
            case "hang":
                time.sleep(1e6)
            case "slow":
                time.sleep(SLOW_S)
            case "segfault":
                ctypes.string_at(0)


def describe(config: WAMConfig) -> WAMSpec:
    return SPEC


def load(config: WAMConfig) -> FaultyWAM:
    return FaultyWAM()

"""The X-WAM that ships: what it imagines of a real scene has the depth that the simulator measures there."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from configs.schema import WAMConfig
from envs.tabletop.env import TabletopEnv
from policies.backbones import describe, load_wam
from policies.backbones.door import DepthWAM
from policies.catalogue import build_schedule
from policies.imagining import imagine
from policies.walk import walk
from rl.evaluation.futures.metrics import depth_errors

SHIPPED = WAMConfig(backbone="xwam", checkpoint="policies/backbones/checkpoints/xwam")
LARGEST = 16 * 2**20  # bytes
LIMITS = (0.6, 1.8)  # metres: what the depth pictures of the head camera can show


def test_it_is_small_and_its_folder_says_how_it_was_made() -> None:
    files = list(Path(SHIPPED.checkpoint).iterdir())
    assert sum(file.stat().st_size for file in files) <= LARGEST
    assert not any(str(Path.home()) in file.read_text() for file in files if file.suffix == ".json")


@pytest.mark.render
def test_the_imagined_depth_is_that_of_the_scene() -> None:
    env = TabletopEnv("click_bell", depth=True)
    observation, info = env.reset(seed=100_001)
    wam, spec = load_wam(SHIPPED), describe(SHIPPED)
    context = wam.observe([observation], [info["instruction"]])
    end = walk(wam, context, build_schedule("async-2-10", spec), [0]).end
    imagined = imagine(wam, context, end, 10, depth=True)
    assert imagined.depth is not None
    first = cast(DepthWAM, wam).imagined_depths(imagined.depth)["head"][0, 0]
    true = observation["head_depth"]
    error = depth_errors(first, true, LIMITS).abs_rel
    flat = depth_errors(np.full_like(true, np.median(true)), true, LIMITS).abs_rel
    assert error < 0.5 * flat
    env.close()

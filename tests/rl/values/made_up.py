"""A small backbone on disk, and episodes of noise whose returns are stored: what training a value expert needs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from configs.schema import Config
from envs.demonstrations import Episode
from envs.demonstrations.failures import FailureFolder
from envs.demonstrations.formats.legacy import Folder
from envs.outcomes import Outcome
from envs.simulator import ExpertReply
from launch.shell.cli import parse, resolve
from policies.backbones import describe
from policies.backbones.tiny.checkpoint import save_wam
from rl.returns.computing import compute_returns
from tests.envs.demonstration_trees import write_legacy
from tests.policies.small_wam import small_config, small_wam

SIZES = {"head": 64, "left_wrist": 32, "right_wrist": 32}
TASK, STEPS = "click_bell", 9
SEEDS = [5, 7, 8]
SETTINGS = (
    f"env.tasks=[{TASK}]",
    "demonstrations.episodes_per_task=3",
    "demonstrations.failures.schedule=fixed-1",
    "returns.horizon=4",
    "value.expert.hidden=16",
    "value.expert.ffn_dim=16",
    "value.expert.horizon=2",
    "value.expert.steps=2",
    "value.updates=3",
    "value.batch=4",
    "value.clip_stride=2",
    "value.imagined_fraction=0.5",
)


def episode(seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 256, (STEPS + 1, size, size, 3), np.uint8) for name, size in SIZES.items()}
    return Episode(images, rng.uniform(0, 1, (STEPS + 1, 14)).astype(np.float32), ("press a red bell",), {})


def arguments_in(folder: Path) -> list[str]:
    """Write backbone, demonstrations and failures with their returns. Returns the settings that name them."""
    root = folder / "demonstrations"
    for index in range(len(SEEDS)):
        write_legacy(root / TASK / "clean", index, episode(index))
    Folder(root, TASK, "clean").seeds_path.write_text(" ".join(map(str, SEEDS)))
    (root / "splits.json").write_text(json.dumps({"train": SEEDS[:2], "validation": SEEDS[2:], "test": []}))
    wam = small_wam()
    save_wam(folder / "backbone", wam.model, wam.codec, wam.statistics, small_config(), {})
    named = (f"demonstrations.root={root}", f"wam.checkpoint={folder / 'backbone'}", f"value.output={folder / 'value'}")
    arguments = [*SETTINGS, *named]
    backbone = describe(config_of(arguments).wam).weights_hash
    for kind, outcomes in {
        "disturbed": [Outcome.step_limit] * 3,
        "policy": [Outcome.success, Outcome.step_limit, Outcome.step_limit],
    }.items():
        failures = FailureFolder(root, TASK, "clean", kind)
        failures.bind({"backbone": backbone, "schedule": "fixed-1"})
        for index, outcome in enumerate(outcomes):
            one = episode(100 + index)
            failures.add(index, SEEDS[index], ExpertReply(one.images, one.joints, one.instruction, str(outcome), {}))
    compute_returns(config_of(arguments))
    return arguments


def config_of(arguments: list[str]) -> Config:
    return resolve(parse(arguments, {}))

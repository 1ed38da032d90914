"""Recipes over analytic backbones and toy simulators: the whole main job in seconds."""

from __future__ import annotations

from pathlib import Path

TINY = """
wam: {{factory: "tests.analytic:load_wam"}}
env: {{simulator: "tests.toy_simulator:toy_spec", tasks: [click_bell]}}
rollout: {{segments: "tests.analytic:load_segments", runners: 0, paths_per_iteration: 16, episodes_per_runner: 2}}
ppo: {{minibatch_paths: 8, epochs: 2}}
reward: {{calibration_segments: 8}}
validation: {{every: 0, paths: 4, episodes_per_task: 2}}
evaluation: {{schedules: [fixed-full, fixed-1, sants], episodes_per_task: 4, segments: 4, processes: 0}}
run: {{root: "{root}", name: tiny, iterations: 2, checkpoint_every: 1, train_ablations: false}}
"""

GATED = """
wam: {{factory: "tests.gated_task:load_wam"}}
env: {{simulator: "tests.gated_simulator:gated_spec", tasks: [click_bell]}}
scheduler: {{kind: noisegate, gate: {{steps: 5, channels: [8, 8], width: 16, layers: 1, heads: 2}}}}
rollout: {{runners: 0, episodes_per_runner: 2}}
groups: {{size: 4, per_iteration: 2}}
validation: {{every: 2, episodes_per_task: 2}}
evaluation: {{schedules: [joint-5, handcrafted, noisegate], reference: joint-5, episodes_per_task: 4,
  segments: 0, processes: 0}}
run: {{root: "{root}", name: gated, iterations: 2, checkpoint_every: 1, train_ablations: false}}
"""


def write_tiny_recipe(folder: Path, text: str = TINY) -> str:
    path = folder / "tiny.yaml"
    path.write_text(text.format(root=folder / "runs"))
    return str(path)

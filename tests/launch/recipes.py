"""Recipes over analytic backbones and toy simulators: the whole main job in seconds."""

from __future__ import annotations

from pathlib import Path

TINY = """
wam: {{backbone: tests.analytic}}
env: {{simulator: "tests.toy_simulator:toy_spec", tasks: [click_bell]}}
demonstrations: {{segments: "tests.analytic:load_segments"}}
rollout: {{runners: 0, episodes_per_runner: 2}}
collector: {{name: segments, paths_per_iteration: 16, validation_paths: 4}}
objective: {{minibatch_paths: 8, epochs: 2}}
reward: {{path: {{calibration_segments: 8}}, cost: {{}}}}
validation: {{every: 0, episodes_per_task: 2}}
evaluation: {{schedules: [fixed-full, fixed-1, sants], episodes_per_task: 4, segments: 4, processes: 0}}
run: {{root: "{root}", name: tiny, iterations: 2, checkpoint_every: 1}}
"""

GATED = """
wam: {{backbone: tests.gated_task}}
env: {{simulator: "tests.gated_simulator:gated_spec", tasks: [click_bell]}}
schedule: {{name: noisegate, steps: 5, channels: [8, 8], width: 16, layers: 1, heads: 2}}
rollout: {{runners: 0, episodes_per_runner: 2}}
collector: {{name: groups, size: 4, per_iteration: 2}}
validation: {{every: 2, episodes_per_task: 2}}
evaluation: {{schedules: [joint-5, handcrafted, noisegate], reference: joint-5, episodes_per_task: 4,
  segments: 0, processes: 0}}
run: {{root: "{root}", name: gated, iterations: 2, checkpoint_every: 1}}
"""


def write_tiny_recipe(folder: Path, text: str = TINY) -> str:
    path = folder / "tiny.yaml"
    path.write_text(text.format(root=folder / "runs"))
    return str(path)

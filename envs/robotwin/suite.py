"""What RoboTwin offers besides its simulator. Its seeds come from manifests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from configs.fields import Problem
from configs.schema import EnvConfig
from envs.cameras import RobotCameras
from envs.findings import Finding
from envs.kinematics import Kinematics
from envs.robotwin.findings import examine
from envs.robotwin.kinematics import embodiment_kinematics, recorded_end_effectors
from envs.robotwin.layout import (
    MODE_CONFIGS,
    Checkout,
    CheckoutError,
    MissingAsset,
    UnknownTask,
    listed,
    open_checkout,
)
from envs.robotwin.manifest import Binding, Manifest, ManifestError, binding_of, manifest_path, read_manifest
from envs.robotwin.packages import InterpreterError, installed, lacking
from envs.robotwin.settings import VARIABLES, user_file, with_user_paths
from envs.suites import Role, Suite, Wanted, env_for

INSTALL = "Install it there (upstream: script/_install.sh of stable_2.0), or set ROBOTWIN_PYTHON to one that has it."
IRRELEVANT = {*VARIABLES, "workers", "max_attempts_per_seed", "train_step_limit"}
"""Settings on which the results of an evaluation do not depend."""

# The official evaluation with seed s, and FastWAM's (s = 42), draws candidates from 100000 (1 + s) on.
OFFICIAL_STEP, OFFICIAL_SPAN = 100_000, 50_000
LINGBOT_SEEDS = (10_000, 20_000)


class RoboTwinSuite(Suite):
    ignores = ("head_size", "wrist_size")  # upstream's configurations of tasks choose the cameras

    def prepare(self, env: EnvConfig) -> EnvConfig:
        """The settings with the paths of this user and machine."""
        return replace(env, options=with_user_paths(env.options))

    def episode_seeds(self, env: EnvConfig, role: Role, task: str, wanted: Wanted) -> Sequence[int]:
        """The first feasible seeds of the role's manifest. Raises `ManifestError` where there are too few."""
        return manifest_of(open_checkout(env.options.root), env, role, task, wanted).first_accepted(wanted.count)

    def instructions(self, env: EnvConfig, role: Role, task: str, wanted: Wanted) -> Sequence[str] | None:
        """Those in the role's manifest. None where it holds none of the wanted type for a seed."""
        manifest = manifest_of(open_checkout(env.options.root), env, role, task, wanted)
        kept = [manifest.rows[seed].instructions for seed in manifest.first_accepted(wanted.count)]
        kind = env.options.instruction_type
        return [texts[kind] for texts in kept] if all(kind in texts for texts in kept) else None

    def candidates(self, env: EnvConfig) -> int:
        """A manifest tries as many for every feasible one."""
        return int(env.options.max_attempts_per_seed)

    def reserved(self, seeds: Mapping[str, range]) -> list[Problem]:
        """Those that would make results incomparable with published ones."""
        fix = "Use 250000, or fewer: the second half of any hundred thousand is free."
        return [
            Problem(key, f"{len(span)} candidates from {span.start} on meet {whose}", fix)
            for key, span in seeds.items()
            if (whose := published_seeds(span))
        ]

    def held_out(self, env: EnvConfig) -> EnvConfig:
        """The settings with textures that are not used in training, and with the official step limits."""
        return replace(env, options=replace(env.options, eval_mode=True))

    def problems(self, env: EnvConfig, wanted: Mapping[Role, Wanted]) -> list[Problem]:
        """Manifests are looked at only where nothing else is wrong."""
        try:
            checkout = open_checkout(env.options.root)
        except CheckoutError as error:
            fix = f"Set {VARIABLES['root']}, or write `root: <path>` to {user_file()}."
            return [Problem("env.options.root", str(error), fix)]
        robot, tasks = list(_robot_problems(checkout, env)), list(_task_problems(checkout, env))
        assets = [] if robot else list(_asset_problems(checkout, env))
        manifests = [] if robot or tasks or assets else list(_manifest_problems(checkout, env, wanted))
        return [*tasks, *robot, *_interpreter_problems(env), *assets, *manifests]

    def findings(self, env: EnvConfig, wanted: Mapping[Role, Wanted]) -> list[Finding]:
        """Return findings about everything that RoboTwin needs of this machine."""
        return examine(env, self.problems(env, wanted))

    def kinematics(self, env: EnvConfig) -> Kinematics:
        """Read them from the embodiment's URDF. Raises ValueError if it is missing or wrong, and for ee actions."""
        if env.options.action_type != "qpos":
            raise ValueError(
                f"demonstrations are joint targets, which env.options.action_type={env.options.action_type} actions "
                "cannot be compared with: use qpos, or a NoiseGate run or an evaluation with evaluation.segments=0"
            )
        return embodiment_kinematics(open_checkout(env.options.root), env.options.embodiment)

    def end_effectors(self, env: EnvConfig) -> Kinematics:
        """Those of RoboTwin's `endpose`. Raises ValueError as `kinematics`."""
        self.kinematics(env)
        return recorded_end_effectors(open_checkout(env.options.root), env.options.embodiment)

    def cameras(self, env: EnvConfig) -> RobotCameras:
        """Always raises ValueError.

        The kinematics here are in the root frame of the URDF, and where RoboTwin puts the robot and mounts the cameras
        is known to its own code alone.
        """
        raise ValueError(
            "where RoboTwin's cameras are cannot be told from joints without its simulator: set env.depth=true and "
            "take NAME_intrinsics and NAME_pose from the observations or the demonstrations"
        )

    def facts(self, env: EnvConfig, wanted: Mapping[Role, Wanted]) -> dict[str, Any]:
        """Everything that a result depends on besides the policy and the seeds."""
        checkout, settings = open_checkout(env.options.root), asdict(env.options)
        limits = checkout.step_limits()
        return {
            "suite": "robotwin",
            "commit": checkout.commit,
            "layout": checkout.layout,
            "task_config": MODE_CONFIGS[env.mode],
            "task_config_hash": checkout.config_hash(MODE_CONFIGS[env.mode]),
            **{name: value for name, value in settings.items() if name not in IRRELEVANT},
            "embodiment_hash": checkout.embodiment(env.options.embodiment).hash,
            "start_seeds": {role: span.first_seed for role, span in wanted.items()},
            "step_limits": {task: limits[task] for task in env.tasks},
            "skipped_seeds": {
                role: {task: manifest_of(checkout, env, role, task, span).skipped(span.count) for task in env.tasks}
                for role, span in wanted.items()
            },
            "versions": installed(env.options.python, env.options.root),
        }


SUITE = RoboTwinSuite()


def manifest_of(checkout: Checkout, env: EnvConfig, role: Role, task: str, wanted: Wanted) -> Manifest:
    """The manifest of a role and task. Raises ValueError, with the fix, where there is none."""
    binding = binding_for(checkout, env, task)
    return read_manifest(manifest_path(env.options.manifests, binding, role), binding, wanted.first_seed)


def binding_for(checkout: Checkout, env: EnvConfig, task: str) -> Binding:
    """Return everything that the verdicts of a manifest with these settings depend on."""
    return binding_of(checkout, env.options.embodiment, task, MODE_CONFIGS[env.mode], env.options.eval_mode)


def published_seeds(seeds: range) -> str:
    """Whose evaluation draws from these seeds, or nothing."""
    if seeds.start < LINGBOT_SEEDS[1] and LINGBOT_SEEDS[0] < seeds.stop:
        return f"lingbot-va's evaluation ({LINGBOT_SEEDS[0]} on)"
    start = max(seeds.start // OFFICIAL_STEP, 1) * OFFICIAL_STEP
    start = start if seeds.start < start + OFFICIAL_SPAN else start + OFFICIAL_STEP
    return f"the official evaluation ({start} on)" if start < seeds.stop else ""


def _task_problems(checkout: Checkout, env: EnvConfig) -> Iterator[Problem]:
    for task in env.tasks:
        try:
            checkout.require_task(task)
        except UnknownTask as error:
            yield Problem("env.tasks", str(error), f"{len(checkout.tasks)} tasks are in {checkout.config_dir}.")


def _robot_problems(checkout: Checkout, env: EnvConfig) -> Iterator[Problem]:
    settings = env.options
    try:
        checkout.embodiment(settings.embodiment)
    except MissingAsset:
        return  # `_asset_problems` reports it
    except ValueError as error:
        yield Problem("env.options.embodiment", str(error), "WAM checkpoints are for aloha-agilex.")
    if settings.action_type == "ee" and settings.planner == "none":
        yield Problem("env.options.action_type", "ee needs a planner", "Use qpos, or env.options.planner=curobo.")


def _interpreter_problems(env: EnvConfig) -> Iterator[Problem]:
    key, settings = "env.options.python", env.options
    name = settings.python or "this interpreter"
    try:
        missing = lacking(settings.python, settings.root, settings.planner == "curobo")
    except InterpreterError as error:
        yield Problem(key, str(error), f"Set {VARIABLES['python']} to RoboTwin's interpreter.")
        return
    packages = [module for module in missing if module != "curobo"]
    if packages:
        yield Problem(key, f"{name} lacks {', '.join(packages)}, which RoboTwin imports", INSTALL)
    if "curobo" in missing:
        fix = "Install it with upstream's script, or use env.options.planner=none: qpos actions need no planner."
        yield Problem("env.options.planner", f"{name} lacks curobo", fix)


def _asset_problems(checkout: Checkout, env: EnvConfig) -> Iterator[Problem]:
    missing = checkout.missing_assets(env.options.embodiment, env.tasks, [env.mode], planner=True)
    if missing:
        yield Problem(
            "env.options.root", f"assets are missing: {listed(missing)}", f"Get them: {checkout.download_command}"
        )


def _manifest_problems(checkout: Checkout, env: EnvConfig, wanted: Mapping[Role, Wanted]) -> Iterator[Problem]:
    for role, span in wanted.items():
        played = env_for(env, role)
        for task in env.tasks if span.count else ():
            try:
                manifest_of(checkout, played, role, task, span).first_accepted(span.count)
            except (ManifestError, MissingAsset) as error:
                yield Problem("env.options.manifests", str(error), f"It is for {role}, {span.count} episodes a task.")

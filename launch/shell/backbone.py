"""Whether the backbone of a run is there and fits, and which schedules can walk on it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

from configs.errors import WrongSetting
from configs.fields import Problem, leaves, without_effect
from configs.planning import NO_PLANNER, split_planner
from configs.schema import Config
from envs.suites import Role, suite_of
from policies.backbones import examine, reads_embeddings, unread_settings
from policies.backbones.door import WAMSpec
from policies.backbones.published.layout import LAYOUTS
from policies.catalogue import build_schedule, learned_schedules
from policies.planning.planned import check_value
from rl.experience.simulators import check_actions
from rl.method import check_backbone
from rl.reward import Rewards

CONSTANT = ("fixed-full", "joint-10", "handcrafted", "async", "fixed-full+plan")
"""One of each kind of schedules that do not learn: cascade, joint, a level a frame, asynchronous, planned."""

CHECKPOINT = "wam.checkpoint"


def examine_backbones(
    config: Config, trains: bool, roles: Sequence[Role] | None, demonstrated: bool
) -> tuple[WAMSpec | None, list[Problem]]:
    """Describe the configured backbone, and find what keeps it and the others of an evaluation from being used.

    That is a checkpoint that is missing, damaged or not complete, rewards that do not fit, actions that the suite's
    robot cannot take, text embeddings that lack instructions which the run is known to meet, and planners of an
    evaluation on a backbone without a value expert. If `trains`, it is also a schedule that cannot be trained on it.
    `roles` are those for which the verb plays episodes; with None it
    needs no suite. `demonstrated` says whether it reads demonstrations. Without a description the first result is None.
    """
    instructions: set[str] = set()
    if roles is not None and reads_embeddings(config.wam):
        from envs.instructions import known_instructions  # it reads demonstrations, which takes time to import

        instructions = known_instructions(config, roles, demonstrated)
    others = config.evaluation.backbones.items()
    named = {f"evaluation.backbones.{name}": config.wam.of_another(folder) for name, folder in others}
    specs: dict[str, WAMSpec] = {}
    problems: list[Problem] = []
    for key, settings in {CHECKPOINT: config.wam, **named}.items():
        try:
            specs[key], lacking = examine(settings, instructions)
        except WrongSetting as error:
            where = key if error.key == CHECKPOINT else error.key
            problems.append(Problem(where, f"{error.value!r}: {error.reason}".removesuffix("."), "Or name another."))
        except ValueError as error:
            problems.append(Problem(key, str(error).removesuffix("."), "Or name another."))
        else:
            problems += [Problem(key, reason, "Or use another backbone.") for reason in lacking]
            if roles is not None:
                problems += _refused(key, check_actions, config.env, specs[key])
    spec = specs.get(CHECKPOINT)
    if spec is not None:
        problems += _refused("reward", Rewards, config.reward, spec)
        problems += _refused("schedule.name", check_backbone, config, spec) if trains else []
    return spec, problems + (_planners_refused(config, specs) if "evaluation" in (roles or ()) else [])


def _planners_refused(config: Config, specs: Mapping[str, WAMSpec]) -> list[Problem]:
    """Return a problem for every row of the comparison that has a planner on a backbone without a value expert."""
    problems = []
    for row in config.evaluation.schedules:
        name, _, other = row.partition("@")
        spec = specs.get(f"evaluation.backbones.{other}" if other else CHECKPOINT)
        if spec is not None and split_planner(name)[1] != NO_PLANNER:
            problems += _refused("evaluation.schedules", check_value, row, spec)
    return problems


def settings_without_effect(config: Config) -> Iterator[Problem]:
    """Yield a problem for every setting that the configured backbone or suite does not read."""
    chosen = f"wam.backbone={config.wam.backbone}"
    yield from without_effect(config.wam, unread_settings(config.wam), chosen, "wam.")
    if config.wam.backbone not in LAYOUTS.all():
        yield from without_effect(config.bench, [key for key, _ in leaves(config.bench)], chosen, "bench.")
    yield from without_effect(config.env, suite_of(config.env).ignores, f"env.suite={config.env.suite}", "env.")


def _refused(key: str, check: Callable[..., object], *arguments: object) -> list[Problem]:
    """Return the problem that a check of the backbone raises, or nothing."""
    try:
        check(*arguments)
    except ValueError as error:
        return [Problem(key, str(error).removesuffix("."), "Or use another backbone.")]
    return []


def backbone_lines(config: Config, spec: WAMSpec) -> Iterator[str]:
    """Yield lines about the configured backbone, which `spec` describes. No weights are loaded."""
    yield f"wam.backbone={config.wam.backbone}: {config.wam.checkpoint} fits (hash {spec.weights_hash})"
    by = ", which the arms of the robot turn into joint targets" if spec.acts_on == "arms" else ""
    yield f"its actions are {spec.actions_are}{by}"
    verdicts = {name: verdict_on(name, spec) for name in (*learned_schedules(), *CONSTANT)}
    yield f"it allows: {', '.join(name for name, verdict in verdicts.items() if not verdict.startswith('no'))}"
    yield from (f"  {name}: {verdict}" for name, verdict in verdicts.items() if verdict)
    layout = LAYOUTS.all().get(config.wam.backbone)
    yield from (f"note: {note}" for note in (layout.notes if layout else ()))


def verdict_on(name: str, spec: WAMSpec) -> str:
    """Return "" if a schedule can walk on a backbone, "yes, but <warning>" if it warns, and "no, <reason>" if not."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            build_schedule(name, spec).check(spec)
        except ValueError as error:
            return f"no, {error}"
    return "; ".join(f"yes, but {warning.message}" for warning in warned)

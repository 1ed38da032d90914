"""The command line of every verb: `python -m launch.<verb> [configs/<recipe>.yaml] [key=value ...]`.

All problems of a configuration are reported together, before anything heavy is imported. The type of a key's field
decides how its value is read: a text stays as it was typed, and `007` or `yes` is a number or a truth value only where
the field is one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.fields import ConfigError, Problem, expand_homes, leaves
from configs.plain_yaml import parse_yaml, to_yaml
from configs.renamed import fix_of
from configs.schema import CollectorConfig, Config, EnvConfig, RunConfig
from configs.validation import value_problems
from envs.seeds import seed_problems
from envs.simulator import known_suites
from envs.suites import Role, kinematics_problems, new_options, suite_of, suite_problems, suite_recipes
from launch.shell.backbone import backbone_lines, examine_backbones, settings_without_effect
from launch.shell.console import EXIT_USAGE, PlainConsole
from launch.shell.environment import set_environment
from launch.shell.texts import as_text, as_yaml, is_text, is_unicode, nearest, nearest_fix
from policies.backbones.door import WAMSpec
from rl.method import REWARDS_OF, choose, method_problems, new_section

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
QUICK_SUFFIX = "-quick"
REFERENCE_FIX = "Write ${oc.env:NAME} for a variable of the environment, ${section.key} for a value, or no '${'."


@dataclass(frozen=True)
class Arguments:
    """The parts of a command line. `overrides` holds the texts that were typed as `key=text`."""

    recipe: str | None
    overrides: dict[str, str]
    flags: frozenset[str]
    problems: tuple[Problem, ...]


def load_config(
    argv: Sequence[str],
    description: str,
    flags: Mapping[str, str] | None = None,
    plays: Callable[[Config], Sequence[Role]] | None = None,
    compares: Callable[[Config], bool] = lambda config: False,
    walks: bool | Callable[[Config], bool] = False,
    trains: bool = False,
) -> Config:
    """Return the configuration of a command line.

    `flags` are further options of the verb with their help; the verb itself looks for them. `plays` returns the roles
    for which the verb plays episodes, so that problems of the simulator are found too; None means that it needs no
    simulator. `compares` says whether it compares actions with demonstrations, for which the suite must know its robot.
    `walks` says whether it loads the backbone, which then must exist. `trains` says whether it trains the schedule, for
    which the backbone must be fit too.
    Ends the process with code 0 after `--help` or `--dry-run`, and with code 2 after printing every problem.
    """
    known = {"--help": "this text", "--dry-run": "print the resolved configuration and stop", **(flags or {})}
    arguments = parse(argv, known)
    if "--help" in arguments.flags:
        PlainConsole(soft_wrap=True).print(help_text(description, known))
        sys.exit(0)
    try:
        config = resolve(arguments)
        loads = walks(config) if callable(walks) else walks
        roles = None if plays is None else plays(config)
        problems = suite_problems(config, roles) if roles is not None else []
        spec: WAMSpec | None = None
        if loads:
            of_suite = None if problems else roles  # a suite with problems tells neither robot nor instructions
            spec, of_backbone = examine_backbones(config, trains, of_suite, compares(config))
            problems = of_backbone + problems
        if not problems and compares(config):
            problems = kinematics_problems(config)
        if problems:
            raise ConfigError(problems)
    except ConfigError as error:
        _refuse(error)
    except OSError as error:  # of a file that a check looked at
        wrong = Problem(str(error.filename), f"cannot be read ({error.strerror})", "Correct the path or its rights.")
        _refuse(ConfigError([wrong]))
    if "--dry-run" in arguments.flags:
        plain = PlainConsole(soft_wrap=True)
        plain.print(to_yaml(config), end="")
        for line in backbone_lines(config, spec) if spec else ():
            plain.print(f"# {line}")
        sys.exit(0)
    set_environment()
    return config


def parse(argv: Sequence[str], known_flags: Mapping[str, str]) -> Arguments:
    """Split the arguments into the recipe, `key=value` overrides and flags. Any other argument becomes a problem."""
    recipe: str | None = None
    overrides: dict[str, str] = {}
    flags: set[str] = set()
    problems: list[Problem] = []
    for argument in argv:
        key, equals, text = argument.partition("=")
        if not is_unicode(argument):
            problems.append(Problem(ascii(argument), "is no UTF-8 text", "Write it in UTF-8, or rename the file."))
        elif argument in ("-h", *known_flags):
            flags.add("--help" if argument == "-h" else argument)
        elif argument.startswith("-"):
            fix = nearest_fix(argument, list(known_flags), "See --help for the options.")
            problems.append(Problem(argument, "is no option", fix))
        elif equals:
            overrides[key] = text
        elif recipe is None:
            recipe = argument
        else:
            problems.append(Problem(argument, "is a second recipe", "Give one recipe, then key=value."))
    return Arguments(recipe, overrides, frozenset(flags), tuple(problems))


def resolve(arguments: Arguments, *, every_backbone: bool = False) -> Config:
    """Defaults < recipe < that of the suite < quick (if `run.quick`) < `key=value`; then what is the user's.

    The defaults are those of the suite and the method that all of them together choose. `every_backbone` says that the
    verb looks at all backbones, so that settings which the chosen one does not read have an effect too. Raises
    `ConfigError` with every problem.
    """
    problems = list(arguments.problems)
    layers = [_read_recipe(Path(os.path.expanduser(arguments.recipe)), problems)] if arguments.recipe else []
    typed = {key: as_yaml(text) for key, text in arguments.overrides.items()}
    given = [*layers, typed]
    collector = str(_last("collector.name", given) or CollectorConfig().name)
    suite = str(_last("env.suite", given) or EnvConfig().suite)
    over = suite_recipes(suite, collector)
    if _is_quick(given):
        names = ["any", f"any.{collector}", *([Path(arguments.recipe).stem] if arguments.recipe else [])]
        over += [CONFIGS / "quick" / f"{name}.yaml" for name in names]
    layers += [_read_recipe(path, problems) for path in over if path.is_file()]
    base = _chosen([*layers, typed], suite, collector, problems)
    known = dict(leaves(base))
    texts = {key: as_text(text) for key, text in arguments.overrides.items() if is_text(known, key)}
    merged = OmegaConf.structured(base)
    for layer in (*layers, typed | texts):
        for key, value in leaves(layer):
            problems.extend(_apply(merged, known, key, value))
    config = _resolved(merged, problems)
    try:
        config.env = suite_of(config.env).prepare(config.env)
    except ValueError as error:
        problems.append(Problem("env.options", str(error), "Correct the file."))
    problems.extend(expand_homes(config))
    problems.extend(value_problems(config))
    problems.extend(method_problems(config))
    problems.extend(seed_problems(config))
    problems.extend(() if every_backbone else settings_without_effect(config))
    if problems:
        raise ConfigError(problems)
    _name_run(config)
    return config


def _resolved(merged: Any, problems: Sequence[Problem]) -> Config:
    """Return the merged settings, in which OmegaConf replaced each `${...}`. Raises `ConfigError` if one is left."""
    try:
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = str(error.full_key)
        written = dict(leaves(OmegaConf.to_container(merged))).get(key)
        wrong = Problem(key, f"{written!r}: {_first_line(error)}", REFERENCE_FIX)
        raise ConfigError([*problems, wrong]) from error
    assert isinstance(config, Config)
    left = [
        Problem(key, f"{value!r} holds '${{'", REFERENCE_FIX) for key, value in leaves(config) if "${" in str(value)
    ]
    if left:
        raise ConfigError([*problems, *left])
    return config


def _chosen(layers: Sequence[Mapping[Any, Any]], suite: str, collector: str, problems: list[Problem]) -> Config:
    """The default settings of the suite, and of the method that the layers choose (the main job's by default)."""
    rewards: dict[str, bool] = {}
    unknown: list[Problem] = []
    if suite not in known_suites():
        unknown.append(Problem("env.suite", f"{suite!r} is not known", f"Use one of: {', '.join(known_suites())}."))
    for layer in layers:
        for key, value in leaves(layer):
            section, _, rest = key.partition(".")
            name, _, field = rest.partition(".")
            if section == "reward" and (field or value is None or value == {}):
                rewards[name] = value is not None or bool(field)
    names = {"schedule": _last("schedule.name", layers), "objective": _last("objective.name", layers)}
    named = [name for name, wanted in rewards.items() if wanted]
    default = [name for name in REWARDS_OF.get(collector, ()) if rewards.get(name, True)]
    sections = [("collector", collector), *names.items(), *(("reward", name) for name in named)]
    for kind, name in sections:
        try:
            if name is not None:
                new_section(kind, str(name))
        except ValueError as error:
            key = f"reward.{name}" if kind == "reward" else f"{kind}.name"
            unknown.append(Problem(key, str(error), "Correct the name."))
    if unknown:
        raise ConfigError([*problems, *unknown])
    config = choose(names["schedule"] or "sants", collector, names["objective"] or "", named or default)
    config.env.options = new_options(suite)
    return config


def _name_run(config: Config) -> None:
    """Add the suite, if it is not the built-in one, and `-quick` to the run's name, so that these have own folders."""
    other_suite = config.env.suite != EnvConfig().suite
    for suffix in [f"-{config.env.suite}"] * other_suite + [QUICK_SUFFIX] * config.run.quick:
        if not config.run.name.endswith((suffix, f"{suffix}{QUICK_SUFFIX}")):
            config.run.name += suffix


def help_text(description: str, flags: Mapping[str, str]) -> str:
    lines = [
        description,
        "",
        "usage: python -m launch.<verb> [configs/<recipe>.yaml] [key=value ...] [options]",
        "",
        "options",
    ]
    lines += [f"  {flag:<12} {text}" for flag, text in flags.items()]
    lines += [
        "",
        "keys and their defaults, for the main job; schedule.name, collector.name, objective.name and the names under",
        "reward choose other sections",
    ]
    section = ""
    for key, default in leaves(choose()):
        here, _, name = key.rpartition(".")
        if here != section:
            section = here
            lines.append(f"  {section}")
        lines.append(f"    {name:<28} {yaml.safe_dump(default, default_flow_style=True).splitlines()[0]}")
    return "\n".join(lines)


def _read_recipe(path: Path, problems: list[Problem]) -> dict[Any, Any]:
    try:
        content = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        recipes = {found.stem: found for found in sorted(path.parent.glob("*.yaml"))}
        there = ", ".join(map(str, recipes.values()))
        fix = f"Recipes there: {there}." if there else "The recipes are in the folder configs."
        best = nearest(path.stem, list(recipes))
        problems.append(Problem(str(path), "does not exist", f"Did you mean {recipes[best]}?" if best else fix))
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problems.append(Problem(str(path), f"cannot be read ({' '.join(str(error).split())})", "Correct the file."))
        return {}
    if not isinstance(content, dict):
        problems.append(Problem(str(path), "is no mapping of sections", "Write `section:` with `key: value` below."))
        return {}
    return content


def _is_quick(layers: Sequence[Mapping[Any, Any]]) -> bool:
    try:
        quick = OmegaConf.merge(OmegaConf.structured(RunConfig), {"quick": _last("run.quick", layers) or False}).quick
    except OmegaConfBaseException:  # it is refused where the value is applied
        return False
    return bool(quick)


def _last(wanted: str, layers: Sequence[Mapping[Any, Any]]) -> Any:
    """Return the value of the key `wanted` in the last layer that has it, or None."""
    values = [value for layer in layers for key, value in leaves(layer) if key == wanted]
    return values[-1] if values else None


def _apply(merged: Any, known: Mapping[str, Any], key: str, value: Any) -> list[Problem]:
    """Set one key of the merged tree, whose keys and defaults are `known`."""
    chosen = key == "env.options" or (key.startswith("reward.") and key.count(".") == 1)
    if chosen or any(name.startswith(f"{key}.") for name in known):
        if value is None or value == {}:
            return []  # it was looked at when the suite and the method were chosen
        inside = [name for name in known if name.startswith(f"{key}.")]
        if not inside and (fix := fix_of(key)):
            return [Problem(key, "is a key of an earlier version", fix)]
        fix = f"Set its keys, such as {inside[0]}." if inside else nearest_fix(key, list(known))
        return [Problem(key, f"is a section, not a value: {value}", fix)]
    owner, _, name = key.rpartition(".")
    if key not in known and not isinstance(known.get(owner), dict):
        if fix := fix_of(key):
            return [Problem(key, "is a key of an earlier version", fix)]
        return [Problem(key, "is no key", nearest_fix(key, list(known)))]
    if value in (None, MISSING):
        shown = "null" if value is None else value
        return [Problem(key, f"{shown} is no value", "Leave the key out, write '' for no text, or put null in quotes.")]
    if isinstance(known.get(key), list) and isinstance(value, str):
        return [Problem(key, f"{value!r} is no list", "Write lists as [a, b].")]
    try:
        if key in known:
            OmegaConf.update(merged, key, value)
        else:  # a name in a dictionary, in which brackets are letters like others
            OmegaConf.select(merged, owner)[name] = value
    except OmegaConfBaseException as error:
        if "${" in str(value):
            return [Problem(key, f"{value!r}: {_first_line(error)}", REFERENCE_FIX)]
        return [Problem(key, _first_line(error), f"Use a value like {known.get(key, 'text')!r}.")]
    return []


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")


def _refuse(error: ConfigError) -> NoReturn:
    count = len(error.problems)
    heading = f"The configuration has {count} problem{'s' if count > 1 else ''}; nothing was started."
    PlainConsole(stderr=True, soft_wrap=True).print(f"{heading}\n{error}")
    sys.exit(EXIT_USAGE)

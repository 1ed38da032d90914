"""Settings with limits: `setting(0.2, above=0)` is a dataclass field of a section whose value must be above 0.

A section is a dataclass. Limits are stored in the metadata of its fields. If a section has a method `conflicts`, it
yields the problems of fields that do not agree with each other.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from configs.fetched import holds_credentials, is_uri

_LIMITS = "limits"
URI_FIX = "Use one that is mounted. run.root, demonstrations.root and weights (wam.checkpoint, ...) may be URIs."
SECRET_FIX = "Leave them out: each node uses its own, from its environment, files or role (docs/cluster.md)."


@dataclass(frozen=True)
class Problem:
    """This is one problem of a configuration, with a way to solve it."""

    key: str
    message: str
    fix: str

    def __str__(self) -> str:
        return f"{self.key}: {self.message}. {self.fix}"


class ConfigError(ValueError):
    """A configuration cannot be used. `problems` holds everything that is wrong with it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(f"  {problem}" for problem in problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class FieldLimits:
    """The values that a field may have. The limits of a list apply to each of its elements."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    choices: Collection[Any] | None = None
    free: bool = False  # see `setting`
    path: bool = False  # see `setting`
    uri: bool = False  # see `setting`

    def problem(self, key: str, value: Any) -> Problem | None:
        """Return the problem of a value that breaks these limits, or None."""
        if isinstance(value, list):
            found = (self.problem(key, element) for element in value)
            return next((problem for problem in found if problem is not None), None)
        if self.choices is not None:
            known = ", ".join(str(choice) for choice in self.choices)
            return None if value in self.choices else Problem(key, f"{value!r} is not known", f"Use one of: {known}.")
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        inside = (
            math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
        )
        return None if inside else Problem(key, f"{value} is out of range", f"Use a finite number{self._range()}.")

    def _range(self) -> str:
        low = f"above {self.above:g}" if self.above is not None else f"of at least {self.at_least}"
        if self.at_most is None:
            return "" if self.above is self.at_least is None else f" {low}"
        if self.above is None and self.at_least is not None:
            return f" between {self.at_least} and {self.at_most}"
        return f" {low} and at most {self.at_most:g}" if self.above is not None else f" of at most {self.at_most}"


def setting(
    default: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    choices: Collection[Any] | None = None,
    free: bool = False,
    path: bool = False,
    uri: bool = False,
) -> Any:
    """Return a dataclass field with limits. A list, dictionary or class as `default` is made for each instance.

    `free` means that a resumed run may change the value, because the trained weights do not depend on it. `path` means
    that the value names files or folders, so that `expand_homes` expands a leading `~` or `~user`. `uri` means
    that it may also be a URI, whose content `configs.fetched` brings to each machine.
    """
    metadata = {_LIMITS: FieldLimits(at_least, above, at_most, choices, free, path, uri)}
    if isinstance(default, list | dict):
        content = default
        return dataclasses.field(default_factory=lambda: content.copy(), metadata=metadata)
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def section_problems(section: Any, prefix: str = "") -> Iterator[Problem]:
    """Yield a problem for every value outside its limits, and for every conflict, in a section and its subsections."""
    for name, value in children(section):
        limits = _limits(section, name)
        problem = limits.problem(f"{prefix}{name}", value)
        if problem is not None:
            yield problem
        if is_section(value):
            yield from section_problems(value, f"{prefix}{name}.")
    if hasattr(section, "conflicts"):
        yield from (dataclasses.replace(one, key=f"{prefix}{one.key}") for one in section.conflicts())


def without_effect(section: Any, names: Collection[str], where: str, prefix: str = "") -> Iterator[Problem]:
    """Yield a problem for every value that is not the default of its field and changes nothing.

    `names` are the keys and subsections of `section` that nobody reads, and `where` is the setting because of which.
    """
    defaults = dict(leaves(type(section)()))
    for key, value in leaves(section):
        if lies_in(key, names) and value != defaults.get(key):
            yield Problem(f"{prefix}{key}", f"has no effect where {where}", "Leave it out.")


def problem_of(section: Any, name: str) -> Problem | None:
    """Return the problem of a field whose value is outside its limits, or None."""
    return _limits(section, name).problem(name, getattr(section, name))


def expand_homes(section: Any, prefix: str = "") -> list[Problem]:
    """Expand `~` and `~user` in every path of a section and its subsections. Returns a problem for each bad path."""
    problems: list[Problem] = []
    for name, value in children(section):
        key = f"{prefix}{name}"
        if not _limits(section, name).path:
            problems += expand_homes(value, f"{key}.") if is_section(value) else []
            continue
        if isinstance(value, Mapping):
            expanded: Any = {entry: os.path.expanduser(path) for entry, path in value.items()}
        else:
            expanded = os.path.expanduser(value)
        setattr(section, name, expanded)
        for place, path in leaves({key: expanded}):
            if "\0" in path:
                problems.append(Problem(place, f"{path!r} is no path", "Leave out its null character."))
            elif path and path[0] == "~":
                problems.append(Problem(place, f"{path!r} names no home", f"Write the whole path, or './{path}'."))
            elif is_uri(path) and holds_credentials(path):
                problems.append(Problem(place, "the URI holds credentials, which a result would show", SECRET_FIX))
            elif is_uri(path) and not _limits(section, name).uri:
                problems.append(Problem(place, f"{path} is a URI, and a folder or file is needed", URI_FIX))
    return problems


def paths(section: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the value of every path that is not empty, in a section and its subsections."""
    for name, value in children(section):
        key = f"{prefix}{name}"
        if _limits(section, name).path:
            yield from ((place, path) for place, path in leaves({key: value}) if isinstance(path, str) and path)
        elif is_section(value):
            yield from paths(value, f"{key}.")


def free_keys(section: Any, prefix: str = "", free: bool = False) -> Iterator[str]:
    """Yield every dotted key that may change when a run is resumed; a dictionary's own key stands for all in it."""
    for name, value in children(section):
        allowed = free or _limits(section, name).free
        if is_section(value) and not (allowed and isinstance(value, Mapping)):
            yield from free_keys(value, f"{prefix}{name}.", allowed)
        elif allowed:
            yield f"{prefix}{name}"


def leaves(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every dotted key of a tree of sections (dataclasses or mappings) with its value."""
    for name, value in children(section):
        if is_section(value) and (value or not isinstance(value, Mapping)):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def lies_in(key: str, names: Collection[str]) -> bool:
    """Whether a dotted key is one of `names`, or lies in a section or dictionary that is."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def is_section(value: Any) -> bool:
    """Whether a value is a mapping or an instance of a dataclass."""
    return isinstance(value, Mapping) or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def children(section: Any) -> Iterator[tuple[str, Any]]:
    """Yield names and values of the fields of a dataclass, or of the entries of a mapping."""
    if isinstance(section, Mapping):
        yield from ((str(name), value) for name, value in section.items())
    else:
        yield from ((entry.name, getattr(section, entry.name)) for entry in dataclasses.fields(section))


def _limits(section: Any, name: str) -> FieldLimits:
    if isinstance(section, Mapping):
        return FieldLimits()
    entries = {entry.name: entry for entry in dataclasses.fields(section)}
    limits: FieldLimits = entries[name].metadata.get(_LIMITS, FieldLimits())
    return limits

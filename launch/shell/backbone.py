"""What a dry run says of the backbone: which schedules can walk on it, and why the others cannot."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

from configs.schema import Config
from policies.backbones import describe
from policies.backbones.door import WAMSpec
from policies.catalogue import build_schedule, learned_schedules

CONSTANT = ("fixed-full", "joint-10", "handcrafted", "async", "fixed-full+plan")
"""One of each kind of schedules that do not learn: cascade, joint, a level a frame, asynchronous, planned."""


def backbone_lines(config: Config) -> Iterator[str]:
    """Yield lines about the configured backbone. No weights are loaded. Raises ValueError as `describe` does."""
    spec = describe(config.wam)
    yield f"wam.backbone={config.wam.backbone}: {config.wam.checkpoint} fits (hash {spec.weights_hash})"
    verdicts = {name: verdict_on(name, spec) for name in (*learned_schedules(), *CONSTANT)}
    yield f"it allows: {', '.join(name for name, verdict in verdicts.items() if not verdict.startswith('no'))}"
    yield from (f"  {name}: {verdict}" for name, verdict in verdicts.items() if verdict)


def verdict_on(name: str, spec: WAMSpec) -> str:
    """Return "" if a schedule can walk on a backbone, "yes, but <warning>" if it warns, and "no, <reason>" if not."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            build_schedule(name, spec).check(spec)
        except ValueError as error:
            return f"no, {error}"
    return "; ".join(f"yes, but {warning.message}" for warning in warned)

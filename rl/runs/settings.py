"""The settings on which the weights of a run depend, compared with those of a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from configs.fields import free_keys, leaves
from configs.renamed import MOVED
from configs.schema import Config, EnvConfig
from policies.backbones.door import WAMSpec
from rl.experience.segments import ROOT_KEY, load_segments, same_segments
from rl.runs.checkpoints import Checkpoint, CheckpointError


def changed_settings(
    checkpoint: Checkpoint, settings: Config, identities: Mapping[str, str] | None = None
) -> list[str]:
    """Return the sorted keys that the weights depend on and that have changed since the checkpoint.

    A key that the checkpoint does not know counts as changed if its value is not the default. All keys of a reward that
    the checkpoint does not know count as changed. Pass `identities` of the segments that the run reads, by split, if
    they are known: another `demonstrations.root` with the same segments then does not count.
    """
    then = {MOVED.get(key, key): value for key, value in leaves(checkpoint.config)}
    now = dict(leaves(dataclasses.asdict(settings)))
    defaults = dict(leaves(dataclasses.asdict(_defaults(settings, checkpoint.config["reward"]))))
    free = set(free_keys(settings))
    if identities is not None and same_segments(_known_segments(checkpoint), identities):
        free.add(ROOT_KEY)
    bound = {key for key in then.keys() | now.keys() if not _is_free(key, free)}
    return sorted(key for key in bound if now.get(key) != then.get(key, defaults.get(key)))


def _known_segments(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the identities of the segments from which a checkpoint was trained, by split."""
    known: dict[str, str] = checkpoint.state.get("collector", {}).get("demonstrations", {})
    return known


def _is_free(key: str, free: set[str]) -> bool:
    """Whether a key, or the dictionary that it is in, may change on a resume."""
    return key in free or key.rpartition(".")[0] in free


def _defaults(settings: Config, known: Collection[str]) -> Config:
    """Return the default settings of the same method. Of its rewards, only those in `known` are included."""
    return Config(
        env=EnvConfig(options=type(settings.env.options)()),
        schedule=type(settings.schedule)(name=settings.schedule.name),
        collector=type(settings.collector)(name=settings.collector.name),
        objective=type(settings.objective)(name=settings.objective.name),
        reward={name: type(own)() for name, own in settings.reward.items() if name in known},
    )


def check_backbone(checkpoint: Checkpoint, spec: WAMSpec) -> None:
    """Raise `CheckpointError` if the checkpoint was trained on another backbone."""
    if checkpoint.backbone_hash != spec.weights_hash:
        raise CheckpointError(
            f"{checkpoint.path or 'the checkpoint'} was trained on the backbone {checkpoint.backbone_hash}, this run "
            f"loads {spec.weights_hash}. Set wam.checkpoint to that backbone, or choose another run.name."
        )


def check_finished(checkpoint: Checkpoint, settings: Config, spec: WAMSpec) -> None:
    """Raise `CheckpointError` if a finished run was trained under other settings or on another backbone."""
    check_backbone(checkpoint, spec)
    changed = changed_settings(checkpoint, settings)
    if ROOT_KEY in changed:
        sources = {split: load_segments(settings, split, spec.action_horizon) for split in _known_segments(checkpoint)}
        identities = {split: getattr(source, "identity", "") for split, source in sources.items()}
        changed = changed_settings(checkpoint, settings, identities)
    if changed:
        raise CheckpointError(
            f"{checkpoint.path or 'the checkpoint'} is the end of a run in which these settings were different: "
            f"{', '.join(changed)}. Choose another run.name to train under them, or set them as in the run's "
            "config.yaml. launch.evaluate compares schedules that were trained under any settings."
        )

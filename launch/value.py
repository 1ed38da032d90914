"""Trains a value expert for the frozen backbone: `python -m launch.value configs/wav.yaml [key=value ...]`.

It learns the stored dense returns of demonstrations and failures (`launch.returns`). Written to `value.output`:
`value.safetensors`, which `wam.value` names, with its loss curve and held-out measurements beside it. The same call
resumes an interrupted training, and only shows the report of a finished one. One with other settings is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.fields import leaves, lies_in
from configs.schema import Config
from configs.stored import read_json
from envs.files import replaced_atomically, write_json
from launch.shell.cli import load_config
from launch.shell.console import console, failures_are_messages
from launch.shell.progress import StageProgress
from launch.shell.stages import demonstration_settings, is_finished, resumable

if TYPE_CHECKING:
    from policies.backbones.clips import Clips
    from policies.backbones.tiny.model import FrozenWorldActionModel
    from rl.values.futures import Futures

DESCRIPTION = "Train a value expert on dense returns, and a reader of it on actions. The backbone stays as it is."
READ_BY_NO_STAGE = ("output", "outcomes", "stages")  # keys of `value`
READ_BY_VALUE = ("updates", "expert", "clean_fraction", "pure_fraction", "shift", "imagined_fraction")  # by it alone
READ_BY_READER = ("action_updates", "reader")
FIX = "Delete it: the network is trained again."

Settings = dict[str, Any]
"""All that a stage depends on: JSON values by dotted key."""

Report = dict[str, Any]
"""What was measured on held-out data: JSON values."""


def main(argv: Sequence[str] | None = None) -> int:
    config = load_config(sys.argv[1:] if argv is None else argv, DESCRIPTION)
    config.wam.value_reader = ""  # it is what this makes, and so is the value expert
    if "value" in config.value.stages:
        config.wam.value = ""
    with failures_are_messages(Path(config.value.output)):
        train(config)
    return 0


def train(config: Config) -> None:
    """Train the stages in their order, measure each on the validation split. What is there already is kept."""
    import torch

    from policies.backbones import describe

    torch.set_num_threads(config.wam.torch_threads)
    folder = Path(config.value.output)
    folder.mkdir(parents=True, exist_ok=True)
    if "value" in config.value.stages:
        returns = {f"returns.{key}": value for key, value in leaves(config.returns) if key != "folder"}
        returns |= {"demonstrations.failures.schedule": config.demonstrations.failures.schedule}
        path = folder / "value.safetensors"
        _stage(config, path, _settings(config, READ_BY_READER) | returns, train_value_expert, show)
        config.wam.value = str(path)
        console.print(f"use it as wam.value={path}", soft_wrap=True)
    if "action" in config.value.stages:
        known = describe(config.wam).value
        if known is None:
            raise ValueError("wam.value is empty: name the value expert to read, or add `value` to value.stages")
        path, read = folder / "reader.safetensors", {"value expert": known.weights_hash}
        _stage(config, path, _settings(config, READ_BY_VALUE) | read, train_reader_of_values, show_losses)
        console.print(f"use it as wam.value={config.wam.value} wam.value_reader={path}", soft_wrap=True)


def _stage(
    config: Config,
    path: Path,
    settings: Settings,
    train: Callable[[Config, Path, Settings], Report],
    show: Callable[[Report], None],
) -> None:
    """Train the network of the file `path` unless it is finished, and show its report."""
    report = path.with_name(f"{path.stem}_report.json")
    if is_finished(path, settings) and report.exists():
        console.print(f"trained before: {path}", soft_wrap=True)
    else:
        write_json(report, train(config, path, settings))
        console.print(f"written: {path}", soft_wrap=True)
    show(read_json(report, Report, FIX))


def _settings(config: Config, ignored: Sequence[str]) -> Settings:
    """Return the settings that a stage depends on, which does not read the `ignored` keys of `value`."""
    from policies.backbones import describe

    ignored = (*READ_BY_NO_STAGE, *ignored)
    own = {f"value.{key}": value for key, value in leaves(config.value) if not lies_in(key, ignored)}
    return own | demonstration_settings(config) | {"backbone": describe(config.wam).weights_hash}


def train_value_expert(config: Config, path: Path, settings: Settings) -> Report:
    """Train a value expert and measure it."""
    from policies.backbones.tiny.value import save_value
    from rl.values.report import measured
    from rl.values.training import train_value

    wam = backbone(config)
    futures, held_out = (loaded(config, wam, split) for split in ("train", "validation"))
    with resumable(path, settings, "value flow matching", config.value.updates) as (progress, point):
        curve, expert = train_value(wam, futures, config.value, progress, point)
    wam.value = expert.eval().requires_grad_(False)
    wam.spec = replace(wam.spec, value=expert.spec)
    found = measured(wam, held_out, config.value)
    recipe: dict[str, Any] = {"training": asdict(config.value), "returns": asdict(config.returns)}
    recipe |= {"tasks": config.env.tasks, "futures": len(futures), "held_out": found}
    with replaced_atomically(path) as temporary:
        save_value(temporary, expert, wam.spec.weights_hash, recipe)
    point.remove()
    write_json(path.with_name("value_curve.json"), asdict(curve))
    return found


def train_reader_of_values(config: Config, path: Path, settings: Settings) -> Report:
    """Train what lets the action read the value expert `wam.value`, on the demonstrations alone, and measure it."""
    from policies.backbones.checkpoint_files import read_config, resolve_checkpoint
    from policies.backbones.tiny.value_reader import save_reader
    from rl.values.acting import held_out_losses, train_reader

    wam = backbone(config)
    assert wam.value is not None
    trained_as = read_config(resolve_checkpoint(config.wam.checkpoint))
    clips, held_out = (demonstrated(config, wam, split) for split in ("train", "validation"))
    with resumable(path, settings, "action flow matching", config.value.action_updates) as (progress, point):
        curve, reader = train_reader(wam, clips, trained_as, config.value, progress, point)
    losses = held_out_losses(wam, reader.eval().requires_grad_(False), held_out, trained_as, config.value)
    recipe = {"training": asdict(config.value), "tasks": config.env.tasks, "clips": len(clips), "held_out": losses}
    with replaced_atomically(path) as temporary:
        save_reader(temporary, reader, wam.spec.weights_hash, wam.value.weights_hash, recipe)
    point.remove()
    write_json(path.with_name("reader_curve.json"), asdict(curve))
    return losses


def backbone(config: Config) -> FrozenWorldActionModel:
    """Load the backbone, with its value expert if `wam.value` names one. ValueError for another backbone than tiny."""
    from policies.backbones import load_wam
    from policies.backbones.tiny.model import FrozenWorldActionModel

    wam = load_wam(config.wam)
    if not isinstance(wam, FrozenWorldActionModel):
        raise ValueError(f"wam.backbone={config.wam.backbone!r}: value experts are trained for tiny backbones only")
    return wam


def loaded(config: Config, wam: FrozenWorldActionModel, split: str) -> Futures:
    """Read the futures of a split, with a progress bar."""
    from rl.values.futures import load_futures

    with StageProgress(f"latents of the {split} split", 0) as progress:
        return load_futures(config, wam, split, progress.advance)


def demonstrated(config: Config, wam: FrozenWorldActionModel, split: str) -> Clips:
    """Read the demonstrations of a split, with a progress bar."""
    from rl.values.futures import load_demonstrations

    with StageProgress(f"demonstrations of the {split} split", 0) as progress:
        return load_demonstrations(config, wam, split, progress.advance)


def show(found: dict[str, Any]) -> None:
    """Print held-out loss, rank correlations and how well successes are told from failures."""
    from rich.table import Table

    title = f"held-out loss {found['loss']:.3f} (n={found['futures']})"
    table = Table("shown", "futures", "rank correlation", "among failures", "success above failure", title=title)
    for kind in ("recorded", "imagined"):
        for name, one in found.get(kind, {}).items():
            numbers = (one[key] for key in ("rank_correlation", "rank_correlation_failures", "auc"))
            table.add_row(f"{kind}: {name}", str(one["count"]), *(f"{number:.3f}" for number in numbers))
    console.print(table)


def show_losses(losses: dict[str, float]) -> None:
    """Print the held-out action losses by what the action read."""
    console.print("held-out action loss: " + ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()))


if __name__ == "__main__":
    sys.exit(main())

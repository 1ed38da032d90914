"""What a value expert knows, on held-out episodes: `launch.diagnose --value`. Writes `value.json` and pictures.

`value_returns.png`: predicted against true returns along episodes, and calibration; `value_rounds.png`: the planner's
score by round; `value_choices.png`: the futures that it prefers and rejects, side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.schema import Config
from configs.stored import DamagedFile
from envs.files import write_json
from launch.measuring.drawing import drawn
from launch.shell.console import console
from launch.value import backbone, loaded, show

if TYPE_CHECKING:
    from policies.backbones.tiny.model import FrozenWorldActionModel
    from rl.values.choosing import Choice, Rounds
    from rl.values.futures import Futures
    from rl.values.predicting import Predicted
    from rl.values.ranking import Ranking

SPLIT = "test"  # the validation split belongs to the report of the training
EPISODES = 4  # of each outcome, in the picture of returns
SHOWN = 5  # choices
FRAMES = (1, 3, 5, 7)  # of an imagined future


def diagnose_value(config: Config, folder: Path) -> None:
    """Measure the value expert `wam.value` on the test split, and write the results to `folder`.

    Raises ValueError if there is no value expert, or no episode in that split.
    """
    import torch

    from policies.backbones import describe
    from rl.values.predicting import predict_recorded
    from rl.values.report import measured

    torch.set_num_threads(config.wam.torch_threads)
    config.wam.value_reader = ""  # what reads values changes actions, and none are looked at
    wam = backbone(config)
    if wam.value is None:
        raise ValueError("wam.value is empty: name the value expert to examine, such as runs/value/value.safetensors")
    futures = loaded(config, wam, SPLIT)
    folder.mkdir(parents=True, exist_ok=True)
    described = describe(config.wam).value
    content = {"value_hash": described.weights_hash if described else "", **measured(wam, futures, config.value)}
    plot_returns(futures, predict_recorded(wam, futures, 0.0), folder / "value_returns.png")
    content["planning"] = planning(config, wam, futures, folder)
    if config.value.outcomes:
        content["ranking"] = ranked(config, wam)
    write_json(folder / "value.json", content)
    show(content)
    console.print(f"written: {folder / 'value.json'}, value_returns.png, value_rounds.png, value_choices.png")


def planning(config: Config, wam: FrozenWorldActionModel, futures: Futures, folder: Path) -> dict[str, Any]:
    """Search at the first observation of every episode, draw what came of it, and return the scores by round.

    The futures that are shown are walked under the schedule of the policy's recorded episodes.
    """
    import torch

    from policies.catalogue import build_schedule
    from rl.values.choosing import choices, scores_by_round
    from rl.values.futures import context_of
    from rl.values.ranking import stream_seeds

    first = torch.nonzero(futures.clips.start == 0).flatten()
    context = context_of(wam, futures.clips.select(first))
    rounds = scores_by_round(wam, context, range(len(first)), config.plan)
    plot_rounds(rounds, folder / "value_rounds.png")
    some = torch.linspace(0, len(first) - 1, min(SHOWN, len(first))).long()
    schedule = build_schedule(config.demonstrations.failures.schedule, wam.spec, config.schedule)
    seeds = stream_seeds(some.tolist(), config.plan.videos)
    plot_choices(choices(wam, context.select(some), seeds, schedule, config.plan), folder / "value_choices.png")
    return rounds.to_json()


def ranked(config: Config, wam: FrozenWorldActionModel) -> dict[str, Any]:
    """Rank the initial noises of the scenes in `value.outcomes`, by `<schedule>/<task>`, for the tasks of the suite."""
    from rl.values.ranking import observe_scenes, ranking, read_outcomes, score_noises, stream_seeds

    path = Path(config.value.outcomes)
    stored = read_outcomes(path, wam.spec.weights_hash)
    found: dict[str, Ranking] = {}
    for task in config.env.tasks:
        of_task = {name: stored.of(name) for name in stored.outcomes if name.rpartition("/")[2] == task}
        if not of_task:
            continue
        scenes, noises = next(iter(of_task.values())).shape
        seeds = range(stored.first_seed, stored.first_seed + scenes)
        context = observe_scenes(wam, config.env, task, config.env.mode, seeds)
        scores = score_noises(wam, context, stream_seeds(seeds, noises), config.plan)
        found |= {name: ranking(scores, outcomes) for name, outcomes in of_task.items()}
    if not found:
        tasks = ", ".join(config.env.tasks)
        raise DamagedFile(path, f"it has no outcomes of {tasks}", "Name another file, or leave value.outcomes empty.")
    show_ranking(found)
    return {name: one.to_json() for name, one in found.items()}


def show_ranking(found: Mapping[str, Ranking]) -> None:
    """Print how the noises of a scene are ranked, beside what an oracle gains."""
    from rich.table import Table

    table = Table("outcomes of", "scenes", "noises", "AUC", "best rated", "any", "oracle", title="noises of a scene")
    for name, one in found.items():
        shares = (f"{share:.0%}" for share in (one.chosen, one.average, one.oracle))
        table.add_row(name, str(one.scenes), str(one.noises), f"{one.auc:.2f}", *shares)
    console.print(table)


def plot_returns(futures: Futures, found: Predicted, path: Path) -> None:
    """Plot predicted and true returns along some episodes of each outcome, and the calibration over all of them."""
    import numpy as np

    with drawn(path, 14, 4, dpi=110) as figure:
        axes = figure.subplots(1, 3)
        axes[1].sharey(axes[0])  # failures look as low as they are
        numbers, starts = futures.clips.episode.numpy(), futures.clips.start.numpy()
        for axis, outcome, title in zip(axes, (True, False), ("success", "failure"), strict=False):
            for colour, number in enumerate(np.unique(numbers[found.succeeded == outcome])[:EPISODES]):
                rows = np.flatnonzero(numbers == number)
                axis.plot(starts[rows], found.true[rows], color=f"C{colour}", label="true" if not colour else None)
                label = "predicted" if not colour else None
                axis.plot(starts[rows], found.predicted[rows], color=f"C{colour}", linestyle="--", label=label)
            axis.set(title=f"episodes that ended with {title}", xlabel="control step", ylabel="return")
            if axis.get_legend_handles_labels()[0]:
                axis.legend()
        bins = found.agreement.bins
        axes[2].plot([one.predicted for one in bins], [one.true for one in bins], marker="o")
        limits = [min(found.true.min(), found.predicted.min()), max(found.true.max(), found.predicted.max())]
        axes[2].plot(limits, limits, color="grey", linewidth=1)
        axes[2].set(title="calibration: eighths of the predictions", xlabel="predicted return", ylabel="true return")


def plot_rounds(rounds: Rounds, path: Path) -> None:
    """Plot the score of the candidates of each round: their mean, and the best of them."""

    with drawn(path, 5, 4, dpi=110) as figure:
        axis = figure.subplots()
        numbers = range(1, len(rounds.mean) + 1)
        axis.plot(numbers, rounds.mean, marker="o", label="mean of the candidates")
        axis.plot(numbers, rounds.best, marker="x", linestyle="--", label="best candidate")
        axis.set(xlabel="round", ylabel="score", xticks=list(numbers), title=f"{rounds.observations} observations")
        axis.legend()


def plot_choices(found: Sequence[Choice], path: Path) -> None:
    """Draw a row for each observation: frames of the future rated best, then of the one rated worst."""

    columns = 2 * len(FRAMES)
    with drawn(path, 1.5 * columns, 1.7 * len(found), dpi=110) as figure:
        axes = figure.subplots(len(found), columns, squeeze=False)
        for row, one in zip(axes, found, strict=True):
            films = ("best", one.chosen, one.scores.max()), ("worst", one.rejected, one.scores.min())
            for part, (name, film, score) in enumerate(films):
                for place, frame in enumerate(FRAMES):
                    axis = row[part * len(FRAMES) + place]
                    axis.imshow(film[min(frame, len(film) - 1)], interpolation="nearest")
                    axis.axis("off")
                row[part * len(FRAMES)].set_title(f"{name}: {score:.2f}", fontsize=9, loc="left")

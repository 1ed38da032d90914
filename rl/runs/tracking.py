"""The metrics of a run: all of them in `metrics.jsonl`, one line for each iteration, and as TensorBoard events."""

from __future__ import annotations

import contextlib
import io
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, NonNegativeInt
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from configs.stored import DamagedFile, parse_json, set_aside
from envs.files import remove_leftovers, write_bytes
from policies.learning import Charts

METRICS_FILE = "metrics.jsonl"
ENLARGED = 3  # the factor by which videos are enlarged

LAYOUT: Charts = {
    "1 learning": {
        "validation success": ["Multiline", ["validation/success"]],
        "validation success by task": ["Multiline", [r"validation/success_.+"]],
    },
    "2 policy": {
        "ratio": ["Multiline", ["learner/ratio_mean", "learner/ratio_max"]],
        "clip fraction and gradient": ["Multiline", ["learner/clip_fraction", "learner/gradient_norm"]],
    },
    "3 machine": {
        "shares of an iteration": ["Multiline", ["time/runner_busy_share", "time/learner_share"]],
        "seconds": ["Multiline", ["time/iteration_s", "time/collect_s", "time/learn_s"]],
        "weights": ["Multiline", ["runners/broadcast_bytes", "runners/weights_lag_max"]],
        "memory": ["Multiline", ["memory/driver_mb", "memory/runner_mb", "memory/simulator_mb"]],
    },
    "4 cluster": {
        "runners and nodes": ["Multiline", ["runners/healthy", "runners/nodes"]],
        "lost and asked again": ["Multiline", ["runners/restarts", "runners/reissued", "runners/stale"]],
        "failures": ["Multiline", ["runners/failures"]],
        "requests that waited": ["Multiline", ["runners/queue"]],
        "memory of a GPU": ["Multiline", ["memory/gpu_mb"]],
        "use of runners and GPUs": ["Multiline", ["time/runner_busy_share", "time/gpu_busy_share", "memory/gpu_share"]],
    },
}


class Tracker:
    """Writes the metrics of a run. After a resume, records after `iteration` are removed, for they come again."""

    def __init__(self, run_directory: Path, iteration: int = 0, charts: Sequence[Charts] = ()) -> None:
        """`charts` are the charts of the method, in addition to those of every run."""
        run_directory.mkdir(parents=True, exist_ok=True)
        self._path = run_directory / METRICS_FILE
        remove_leftovers(self._path)
        _write_records(self._path, [one for one in self._records() if one["iteration"] <= iteration])
        self._file = self._path.open("a", encoding="utf-8")
        purge_step = iteration + 1 if iteration else None
        # TensorBoard reads event files in the order of their names, which begin with the second of their creation.
        while any((run_directory / "tensorboard").glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
            time.sleep(0.05)
        self._writer = SummaryWriter(str(run_directory / "tensorboard"), purge_step=purge_step)
        if iteration == 0:
            self._writer.add_custom_scalars(combined(LAYOUT, *charts))

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of an iteration, named `group/name`. NaN means "not measured" and is left out."""
        measured = _measured(metrics)
        self._file.write(json.dumps({"iteration": iteration, **measured}) + "\n")
        self._file.flush()
        self._add_scalars(iteration, measured)

    def amend(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Add metrics that were measured later to the record of the last logged iteration."""
        measured = _measured(metrics)
        records = self._records()
        logged = records.pop() if records and records[-1]["iteration"] == iteration else {}
        self._file.close()
        _write_records(self._path, [*records, {**logged, "iteration": iteration, **measured}])
        self._file = self._path.open("a", encoding="utf-8")
        self._add_scalars(iteration, measured)

    def _records(self) -> list[dict[str, Any]]:
        """Return the records of the file, and set it aside first if it holds lines that are none."""
        records, wrong = _read_lines(self._path)
        if wrong:
            reason = f"{len(wrong)} of its lines hold no metrics of an iteration ({wrong[0]})"
            set_aside(DamagedFile(self._path, reason, "Its other lines go on in a new file."))
        return records

    def _add_scalars(self, iteration: int, measured: Mapping[str, float]) -> None:
        for name, value in measured.items():
            self._writer.add_scalar(name, value, iteration)
        self._writer.flush()

    def histogram(self, name: str, values: npt.ArrayLike, iteration: int) -> None:
        values = np.asarray(values, dtype=np.float64)
        if values.size:
            self._writer.add_histogram(name, values, iteration)

    def walks(self, name: str, sigmas: Sequence[Sequence[float]], iteration: int) -> None:
        """Write a picture of sample walks: the video's noise level at each decision, one line for each path."""
        self._writer.add_image(name, draw_walks(sigmas), iteration, dataformats="HWC")

    def video(self, name: str, frames: npt.NDArray[np.uint8], iteration: int, rate: int) -> None:
        """Write frames [T, H, W, 3] as an animated picture with `rate` frames per second."""
        height, width = (ENLARGED * size for size in frames.shape[1:3])
        large = frames.repeat(ENLARGED, axis=1).repeat(ENLARGED, axis=2)
        first, *others = (Image.fromarray(frame) for frame in large)
        gif = io.BytesIO()
        first.save(gif, "GIF", save_all=True, append_images=others, duration=1000 / rate, loop=0)
        picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif.getvalue())
        summary = Summary(value=[Summary.Value(tag=name, image=picture)])
        self._writer._get_file_writer().add_summary(summary, iteration)

    def text(self, name: str, text: str, iteration: int) -> None:
        """Show a text, which is read as Markdown."""
        self._writer.add_text(name, text, iteration)

    def close(self) -> None:
        self._writer.close()
        self._file.close()


def combined(*layouts: Charts) -> dict[str, dict[str, list[Any]]]:
    """Combine charts section by section, and make each tag of a multi-line chart match whole names only.

    TensorBoard takes the tags of a `Multiline` chart for regular expressions, and those of a `Margin` chart for names.
    """
    sections = sorted({section for layout in layouts for section in layout})
    return {
        section: {
            title: [kind, [f"^{tag}$" for tag in tags] if kind == "Multiline" else list(tags)]
            for layout in layouts
            for title, (kind, tags) in layout.get(section, {}).items()
        }
        for section in sections
    }


def draw_walks(sigmas: Sequence[Sequence[float]]) -> npt.NDArray[np.uint8]:
    """Draw the noise levels of walks, one line for each. Returns uint8 [H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="decision", ylabel="sigma_video", ylim=(-0.02, 1.02))
    for walk in sigmas:
        axes.plot(np.arange(len(walk)), walk, marker="o", markersize=3, linewidth=1, alpha=0.6)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), dtype=np.uint8)[..., :3].copy()


def read_metrics(run_directory: Path) -> list[dict[str, Any]]:
    """Return the metrics of each iteration. Lines that are damaged, or cut short by a crash, are left out."""
    return _read_lines(run_directory / METRICS_FILE)[0]


class _Record(BaseModel, extra="allow"):
    iteration: NonNegativeInt
    __pydantic_extra__: dict[str, float]


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the records of a file of metrics, and what is wrong with its other lines.

    A last line without its end is left out of both: so a crash leaves the file.
    """
    *lines, unfinished = path.read_bytes().split(b"\n") if path.is_file() else [b""]
    records, wrong = [], []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(parse_json(path, line, _Record, "").model_dump())
        except DamagedFile as damaged:
            wrong.append(f"line {number}: {damaged.reason}")
    with contextlib.suppress(DamagedFile):
        records.append(parse_json(path, unfinished, _Record, "").model_dump())
    return records, wrong


def _write_records(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    write_bytes(path, "".join(json.dumps(record) + "\n" for record in records).encode())


def _measured(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in sorted(metrics.items()) if not math.isnan(value)}

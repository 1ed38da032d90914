"""What a run writes down survives a crash and a resume, and the page shows what is written."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.util.tensor_util import make_ndarray

from rl.algorithm import ScheduleAlgorithmConfig, running
from rl.method import charts_of
from rl.runs.tracking import LAYOUT, METRICS_FILE, Tracker, combined, draw_walks, read_metrics
from tests.analytic import SPEC
from tests.rl.recipes import closed_loop_settings


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    tracker.log(1, {"reward/return": 0.5, "validation/success": math.nan})
    tracker.close()
    assert read_metrics(tmp_path) == [{"iteration": 1, "reward/return": 0.5}]


def test_iterations_after_the_resumed_one_are_written_once(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    for iteration in (1, 2, 3):
        tracker.log(iteration, {"reward/return": float(iteration)})
    tracker.close()
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"iteration": 4, "reward/ret')  # cut short by a crash
    tracker = Tracker(tmp_path, iteration=2)
    tracker.log(3, {"reward/return": 30.0})
    tracker.close()
    assert [record["reward/return"] for record in read_metrics(tmp_path)] == [1.0, 2.0, 30.0]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward/return")] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_what_was_measured_later_joins_the_record_of_its_iteration(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    for iteration in (1, 2):
        tracker.log(iteration, {"reward/return": float(iteration)})
    tracker.close()
    tracker = Tracker(tmp_path, iteration=2)
    tracker.amend(2, {"validation/return": 0.5, "validation/success": math.nan})
    tracker.log(3, {"reward/return": 3.0})
    tracker.close()
    assert read_metrics(tmp_path) == [
        {"iteration": 1, "reward/return": 1.0},
        {"iteration": 2, "reward/return": 2.0, "validation/return": 0.5},
        {"iteration": 3, "reward/return": 3.0},
    ]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("validation/return")] == [(2, 0.5)]
    assert [event.step for event in events.Scalars("reward/return")] == [1, 2, 3]


GOOD = {"iteration": 2, "reward/return": 2.0, "time/learn_s": math.inf}
DAMAGED_LINES = [
    b"[1]", b"3", b"null", b"", b"{", b'{"reward/return": 1.0}', b'{"iteration": "2"}', b'{"iteration": 2.5}',
    b'{"iteration": true}', b'{"iteration": -1}', b'{"iteration": null}', b'{"iteration": 3, "a": "b"}', b"\xff\xfe",
    b'{"iteration": 3, "\xe4": 1.0}', b"\0\0\0", "{\"iteration\": 3}".encode("utf-16"),
]  # fmt: skip


@pytest.mark.parametrize("line", DAMAGED_LINES)
def test_a_damaged_line_is_named_and_the_good_ones_are_kept(
    tmp_path: Path, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / METRICS_FILE
    good = [json.dumps(GOOD | {"iteration": iteration}).encode() for iteration in (1, 2)]
    content = b"\n".join([good[0], line, good[1], b""])
    path.write_bytes(content)
    tracker = Tracker(tmp_path, iteration=2)
    tracker.log(3, {"reward/return": 3.0})
    tracker.close()
    assert [record["iteration"] for record in read_metrics(tmp_path)] == [1, 2, 3]
    assert (tmp_path / f"{METRICS_FILE}.damaged").read_bytes() == content
    (message,) = caplog.messages
    assert message.startswith(f"{path}: 1 of its lines hold no metrics of an iteration (line 2: ")
    Tracker(tmp_path, iteration=3).close()
    assert len(caplog.messages) == 1


@given(
    lines=st.lists(st.sampled_from([json.dumps(GOOD).encode(), *DAMAGED_LINES]), max_size=4), end=st.binary(max_size=9)
)
@settings(max_examples=50, deadline=None)
def test_whatever_a_file_of_metrics_holds_its_good_lines_are_read(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], end: bytes
) -> None:
    directory = tmp_path_factory.mktemp("metrics")
    (directory / METRICS_FILE).write_bytes(b"".join(line + b"\n" for line in lines) + end)
    wanted = [GOOD] * lines.count(json.dumps(GOOD).encode())
    assert [record for record in read_metrics(directory) if record == GOOD] == wanted


def test_histograms_and_pictures_reach_the_events(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    tracker.histogram("walks/updates", np.array([1, 2, 2]), 1)
    tracker.histogram("walks/updates", [], 2)
    tracker.walks("walks/samples", [[1.0, 0.5, 0.0], [1.0, 0.2]], 1)
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Histograms("walks/updates")] == [1]
    assert events.Images("walks/samples")[0].width == 600


def test_a_video_reaches_the_events_as_a_moving_picture(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    frames = np.zeros((5, 8, 16, 3), dtype=np.uint8)
    frames[2:, :, 8:] = 255
    tracker.video("episode/executed_beside_imagined", frames, 3, 10)
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (picture,) = events.Images("episode/executed_beside_imagined")
    with Image.open(io.BytesIO(picture.encoded_image_string)) as gif:
        shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
    assert (picture.step, picture.width, picture.height) == (3, 48, 24)
    assert shown[-1][:, :24].max() == 0
    assert shown[-1][:, 24:].min() == 255
    assert shown[0].max() == 0


def test_a_picture_of_walks_shows_them() -> None:
    empty, drawn = draw_walks([]), draw_walks([[1.0, 0.5, 0.0]])
    assert drawn.dtype == np.uint8
    assert drawn.shape == (350, 600, 3)
    assert (drawn != empty).any()


def test_tensorboard_reads_the_pages_and_the_curves_of_a_run_at_a_uri(tmp_path: Path) -> None:
    """What `make tensorboard LOGDIR=<uri>` shows, where `fsspec` knows the protocol."""
    tracker = Tracker(tmp_path / "tiny")
    tracker.log(1, {"runners/healthy": 2.0})
    tracker.close()
    fsspec.filesystem("memory").put(str(tmp_path / "tiny"), "/bucket/runs/tiny", recursive=True)
    shown = EventMultiplexer().AddRunsFromDirectory("memory://bucket/runs").Reload()
    (run,) = shown.Runs()
    assert run == "tiny/tensorboard"
    (healthy,) = shown.Tensors(run, "runners/healthy")
    assert (healthy.step, make_ndarray(healthy.tensor_proto)) == (1, 2.0)
    (page,) = shown.Tensors(run, "custom_scalars__config__")
    assert {category.title for category in Layout.FromString(page.tensor_proto.string_val[0]).category} == set(LAYOUT)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_up")
def test_every_curve_of_the_page_is_reported() -> None:
    recipe = closed_loop_settings(episodes=0)
    recipe.validation.every = recipe.validation.episodes_per_task = 2
    with running(ScheduleAlgorithmConfig.of(recipe, SPEC)) as one:
        one.train()
        reported = one.latest_metrics.keys() | one.validate().keys()
    layout = combined(LAYOUT, *charts_of(recipe))
    kinds = set()
    for kind, tags in (chart for charts in layout.values() for chart in charts.values()):
        kinds.add(kind)
        for tag in tags:  # a regular expression in a chart of many lines, a name in one with a margin
            assert any(re.search(tag, name) for name in reported) if kind == "Multiline" else tag in reported, tag
    assert kinds == {"Multiline", "Margin"}
    (success,) = layout["1 learning"]["validation success"][1]
    assert [name for name in sorted(reported) if re.search(success, name)] == ["validation/success"]

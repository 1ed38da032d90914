"""Pictures, films and recordings of imagined futures hold what was put in."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from envs.video import read_frames
from rl.evaluation.futures.clips import Future
from rl.evaluation.futures.clouds import Box, Cloud, cloud_of
from rl.evaluation.futures.drawing import (
    BAR,
    GAP,
    HEADER,
    LABEL,
    TILE,
    TITLE,
    UNKNOWN,
    depth_colours,
    depth_limits,
    draw_clouds,
    draw_strip,
    enlarged,
    write_film,
)
from rl.evaluation.futures.recording import RerunMissing, write_recording
from tests.rl.raycast import future

BLOCK = TITLE + 4 * (TILE + GAP)


@pytest.fixture(scope="module")
def imagined() -> Future:
    return future(3)


def test_depth_has_the_colours_of_its_limits() -> None:
    depth = np.float32([[1, 2, 3, 0.5, 9], [0, -1, np.nan, np.inf, 2]])
    colours = depth_colours(depth, (1, 3))
    assert colours.shape == (2, 5, 3)
    assert (colours[0, 3] == colours[0, 0]).all()
    assert (colours[0, 4] == colours[0, 2]).all()
    assert (colours[1, 4] == colours[0, 1]).all()
    assert colours[1, :4].tolist() == [list(UNKNOWN)] * 4
    assert len({tuple(colour) for colour in colours[0, :3].tolist()} | {UNKNOWN}) == 4


def test_limits_come_from_true_depth_alone(imagined: Future) -> None:
    low, high = depth_limits(imagined)["head"]
    true = imagined.true["head"].depth
    assert true[true > 0].min() <= low < high <= true.max()
    assert depth_limits(imagined) == depth_limits(Future(imagined.true, imagined.true))


@pytest.mark.parametrize(("size", "times"), [(64, 2), (32, 4), (128, 1), (300, 1)])
def test_pixels_are_repeated(size: int, times: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    large = enlarged(picture)
    assert large.shape == (size * times, size * times, 3)
    assert (large[::times, ::times] == picture).all()
    assert (large[times - 1 :: times, times - 1 :: times] == picture).all()


def test_the_strip_holds_every_picture_exactly(tmp_path: Path, imagined: Future) -> None:
    path = tmp_path / "new" / "strip.png"
    draw_strip(path, imagined, [0.0, 0.5, 1.0])
    strip = np.asarray(Image.open(path).convert("RGB"))
    assert strip.shape == (3 * BLOCK + GAP, LABEL + 3 * TILE + 2 * GAP + BAR, 3)
    limits = depth_limits(imagined)
    for block, name in enumerate(imagined.true):
        true, guess = imagined.true[name], imagined.imagined[name]
        films = true.rgb, guess.rgb, *(depth_colours(clip.depth, limits[name]) for clip in (true, guess))
        for row, film in enumerate(films):
            for column, picture in enumerate(film):
                top, left = block * BLOCK + TITLE + row * (TILE + GAP), LABEL + column * (TILE + GAP)
                assert (strip[top : top + TILE, left : left + TILE] == enlarged(picture)).all(), (name, row, column)


def test_of_many_moments_some_are_shown_with_first_and_last(tmp_path: Path) -> None:
    path = tmp_path / "strip.png"
    many = future(9)
    draw_strip(path, many, np.arange(9.0).tolist(), columns=3)
    strip = np.asarray(Image.open(path).convert("RGB"))
    assert strip.shape[1] == LABEL + 3 * TILE + 2 * GAP + BAR
    for column, index in enumerate((0, 4, 8)):
        left = LABEL + column * (TILE + GAP)
        assert (strip[TITLE : TITLE + TILE, left : left + TILE] == enlarged(many.true["head"].rgb[index])).all()


def test_the_film_shows_true_beside_imagined(tmp_path: Path, imagined: Future) -> None:
    path = tmp_path / "film.mp4"
    write_film(path, imagined, fps=4)
    frames = read_frames(path, np.array([0, 0.25, 0.5]))
    assert frames.shape == (3, HEADER + 3 * (HEADER + TILE), 4 * TILE + 3 * GAP, 3)
    head = frames[:, 2 * HEADER : 2 * HEADER + TILE].astype(int)
    for column, clips in enumerate((imagined.true, imagined.imagined)):
        shown = head[:, :, column * (TILE + GAP) : column * (TILE + GAP) + TILE]
        assert np.abs(shown - enlarged(clips["head"].rgb)).mean() < 6  # H.264 with colours at half the resolution


def test_clouds_are_drawn(tmp_path: Path, imagined: Future) -> None:
    true, guess = (cloud_of(clip.at(1) for clip in clips.values()) for clips in (imagined.true, imagined.imagined))
    path = tmp_path / "clouds.png"
    draw_clouds(path, true, guess, Box((-0.6, -0.6, -0.02), (0.6, 0.6, 0.4)))
    picture = np.asarray(Image.open(path).convert("RGB"))
    red = (picture == (200, 50, 40)).all(axis=-1)  # the true ball, seen from two viewpoints on the left
    half_height, half_width = np.array(red.shape) // 2
    assert red[:half_height, :half_width].sum() > 20
    assert red[half_height:, :half_width].sum() > 20
    nothing = Cloud(np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8))
    draw_clouds(path, nothing, guess)
    draw_clouds(path, true, nothing)


def test_a_recording_without_rerun_names_the_command(
    tmp_path: Path, imagined: Future, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(RerunMissing, match=r"pip install -c constraints.txt -e '\.\[viz\]'"):
        write_recording(tmp_path / "future.rrd", imagined, [0.0, 0.5, 1.0])
    assert not list(tmp_path.iterdir())


def test_a_recording_holds_points_and_pictures_over_time(tmp_path: Path, imagined: Future) -> None:
    rerun = pytest.importorskip("rerun", reason="needs the extra viz")
    path = tmp_path / "future.rrd"
    write_recording(path, imagined, [0.0, 0.5, 1.0])
    recording = rerun.dataframe.load_recording(path)
    places = {column.entity_path for column in recording.schema().component_columns()}
    for side in ("true", "imagined"):
        assert {f"/{side}/points", *(f"/{side}/{name}/lens/depth" for name in imagined.true)} <= places
    table = recording.view(index="time", contents="/true/points").select("/true/points:Position3D").read_all()
    expected = cloud_of(clip.at(2) for clip in imagined.true.values())
    assert table.num_rows == 3
    assert np.asarray(table.column(0)[2].as_py()) == pytest.approx(expected.points)

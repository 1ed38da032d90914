"""Pictures of imagined RGB-D futures: a strip over time, a film and point clouds, each true beside imagined."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from envs.files import replaced_atomically
from envs.video import VideoWriter
from rl.evaluation.futures.clips import Depth, Future, Pictures
from rl.evaluation.futures.clouds import Box, Cloud

Limits = tuple[float, float]
"""The depths, in metres, at the two ends of the colour map."""

COLOUR_MAP = "turbo_r"  # near is red, far is blue
UNKNOWN = (205, 205, 205)  # the colour of pixels without depth
TILE = 128  # pixels: pictures are enlarged by the whole number that brings them nearest to this size
GAP = 4  # pixels between pictures
DPI = 100
LABEL, BAR, TITLE = 130, 90, 56  # pixels of a strip: left of its rows, right of them, and above each camera
HEADER, FONT = 22, 14  # pixels of a film: the band above each row of pictures, and the size of its letters
MOST_POINTS = 20_000  # of a drawn cloud
VIEWPOINTS = {"from the front": (25.0, -65.0), "from above": (90.0, -90.0)}  # degrees: elevation and azimuth


def depth_limits(future: Future) -> dict[str, Limits]:
    """Return the range of each camera's true depth over all moments, without its farthest and nearest percent."""
    limits = {}
    for name, clip in future.true.items():
        known = clip.depth[np.isfinite(clip.depth) & (clip.depth > 0)]
        low, high = np.percentile(known, [1, 99]).tolist() if known.size else (0.0, 1.0)
        limits[name] = (low, high if high > low else low + 0.01)
    return limits


def depth_colours(depth: Depth, limits: Limits) -> Pictures:
    """Colour depth [..., H, W] in metres: uint8 [..., H, W, 3]. Pixels without depth become grey."""
    import matplotlib

    low, high = limits
    known = np.isfinite(depth) & (depth > 0)
    shares = (np.where(known, depth, high) - low) / (high - low)
    colours = matplotlib.colormaps[COLOUR_MAP](shares.clip(0, 1), bytes=True)[..., :3]
    return np.where(known[..., None], colours, np.array(UNKNOWN, np.uint8)).astype(np.uint8)


def enlarged(pictures: Pictures) -> Pictures:
    """Repeat the pixels of pictures [..., H, W, 3] so often that the longer side comes nearest to `TILE`."""
    times = max(1, round(TILE / max(pictures.shape[-3:-1])))
    return pictures.repeat(times, axis=-3).repeat(times, axis=-2)


def rows_of(future: Future, name: str, limits: Limits) -> dict[str, Pictures]:
    """Return the four films of a camera, enlarged, uint8 [T, H, W, 3]: RGB and coloured depth, true and imagined."""
    true, imagined = future.true[name], future.imagined[name]
    return {
        "true RGB": enlarged(true.rgb),
        "imagined RGB": enlarged(imagined.rgb),
        "true depth": enlarged(depth_colours(true.depth, limits)),
        "imagined depth": enlarged(depth_colours(imagined.depth, limits)),
    }


def draw_strip(
    path: Path,
    future: Future,
    seconds: Sequence[float],
    limits: Mapping[str, Limits] | None = None,
    columns: int = 8,
) -> None:
    """Write a PNG with four rows for each camera, true and imagined RGB and depth, and a column for each moment.

    `seconds` [T] stands above the columns; of more moments than `columns`, that many are shown, the first and the last
    among them. True and imagined depth of a camera have the same colours: those of `limits`, or else of the range of
    its true depth.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    limits = depth_limits(future) if limits is None else limits
    shown = np.unique(np.linspace(0, len(future) - 1, min(columns, len(future))).round().astype(int))
    blocks = {
        name: {label: _side_by_side(film[shown]) for label, film in rows_of(future, name, limits[name]).items()}
        for name in future.true
    }
    width = LABEL + max(row.shape[1] for rows in blocks.values() for row in rows.values()) + BAR
    height = sum(TITLE + sum(len(row) + GAP for row in rows.values()) for rows in blocks.values()) + GAP
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    top = 0
    for name, rows in blocks.items():
        size = "{} x {} pixels".format(*future.true[name].rgb.shape[1:3])
        _text(figure, LABEL, top + 16, f"camera {name}, {size}", weight="bold")
        tile = (next(iter(rows.values())).shape[1] + GAP) / len(shown)
        for column, index in enumerate(shown):
            _text(figure, LABEL + tile * column + (tile - GAP) / 2, top + 42, f"{seconds[index]:.2f} s", ha="center")
        top += TITLE
        for label, row in rows.items():
            _text(figure, LABEL - 8, top + len(row) / 2, label, ha="right")
            _place(figure, row, LABEL, top)
            top += len(row) + GAP
        _colour_bar(figure, limits[name], LABEL + tile * len(shown) + 8, top - 2 * (len(row) + GAP), 2 * len(row) + GAP)
    _save(figure, path)


def write_film(path: Path, future: Future, fps: float, limits: Mapping[str, Limits] | None = None) -> None:
    """Write an MP4 with a row for each camera: true and imagined RGB, then true and imagined depth.

    Depth is coloured as in `draw_strip`.
    """
    limits = depth_limits(future) if limits is None else limits
    cameras = {name: rows_of(future, name, limits[name]) for name in future.true}
    frames = np.stack(
        [
            _film_frame({name: {label: film[index] for label, film in rows.items()} for name, rows in cameras.items()})
            for index in range(len(future))
        ]
    )
    with VideoWriter(path, (frames.shape[1], frames.shape[2]), fps) as video:
        video.append(frames)


def draw_clouds(path: Path, true: Cloud, imagined: Cloud, box: Box | None = None) -> None:
    """Write a PNG of two point clouds, true beside imagined, from two viewpoints.

    Both show the same part of the world: the box, or else what holds 98% of the true points along each axis.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    box = _box_around(true) if box is None else box
    figure = Figure(figsize=(11, 9), dpi=DPI)
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.02, right=0.94, bottom=0.02, top=0.95, wspace=0.08, hspace=0.08)
    clouds = {"true": true, "imagined": imagined}
    panels = [(place, label) for place in VIEWPOINTS for label in clouds]
    for number, (place, label) in enumerate(panels, start=1):
        axes: Any = figure.add_subplot(len(VIEWPOINTS), len(clouds), number, projection="3d")
        axes.set_title(f"{label}, {place}")
        _scatter(axes, _thinned(clouds[label].within(box)), box)
        elevation, azimuth = VIEWPOINTS[place]
        axes.view_init(elev=elevation, azim=azimuth)
        if elevation == 90:
            axes.set(zticks=[], zlabel="")
    _save(figure, path)


def _scatter(axes: Any, cloud: Cloud, box: Box) -> None:
    """Draw the points in the box, whose sides have one scale."""
    axes.set_proj_type("ortho")
    axes.scatter(*cloud.points.T, c=cloud.colours / 255, s=6, linewidths=0, depthshade=False)
    for axis, low, high in zip("xyz", box.low, box.high, strict=True):
        axes.set(**{f"{axis}lim": (low, high), f"{axis}label": f"{axis} / m"})
        getattr(axes, f"{axis}axis").labelpad = 8  # points
        axes.locator_params(axis, nbins=3 if axis == "z" else 5)
    axes.set_box_aspect(np.subtract(box.high, box.low), zoom=1.1)


def _box_around(cloud: Cloud) -> Box:
    """Return the smallest box that holds 98% of the points along each axis, at least 2 cm wide."""
    if not len(cloud):
        return Box((-1, -1, -1), (1, 1, 1))
    low, high = np.percentile(cloud.points, [1, 99], axis=0)
    missing = np.maximum(0, 0.02 - (high - low)) / 2
    return Box(tuple((low - missing).tolist()), tuple((high + missing).tolist()))


def _thinned(cloud: Cloud) -> Cloud:
    """Return the cloud, or `MOST_POINTS` of its points, the same ones in each call."""
    if len(cloud) <= MOST_POINTS:
        return cloud
    chosen = np.random.default_rng(0).choice(len(cloud), MOST_POINTS, replace=False)
    return Cloud(cloud.points[chosen], cloud.colours[chosen])


def _side_by_side(pictures: Sequence[Pictures] | Pictures) -> Pictures:
    """Join pictures [H, W, 3] with white gaps, on white where they differ in height."""
    height = max(len(picture) for picture in pictures)
    width = sum(picture.shape[1] for picture in pictures) + GAP * (len(pictures) - 1)
    joined = np.full((height, width, 3), 255, np.uint8)
    left = 0
    for picture in pictures:
        joined[: len(picture), left : left + picture.shape[1]] = picture
        left += picture.shape[1] + GAP
    return joined


def _film_frame(cameras: Mapping[str, Mapping[str, Pictures]]) -> Pictures:
    """Draw one moment, by camera and label, with even sides: a band of labels, then each camera below its name."""
    rows = {name: _side_by_side(list(pictures.values())) for name, pictures in cameras.items()}
    width = max(row.shape[1] for row in rows.values())
    height = HEADER + sum(HEADER + len(row) for row in rows.values())
    canvas = Image.new("RGB", (width + width % 2, height + height % 2), "white")
    draw, font, left = ImageDraw.Draw(canvas), ImageFont.load_default(FONT), 0
    for label, picture in next(iter(cameras.values())).items():
        draw.text((left + picture.shape[1] / 2, HEADER / 2), label, "black", font, anchor="mm")
        left += picture.shape[1] + GAP
    top = HEADER
    for name, row in rows.items():
        draw.text((2, top + HEADER / 2), f"camera {name}", "black", font, anchor="lm")
        canvas.paste(Image.fromarray(row), (0, top + HEADER))
        top += HEADER + len(row)
    return np.asarray(canvas)


def _text(figure: Any, left: float, top: float, text: str, **style: Any) -> None:
    """Write a text whose vertical middle lies `top` pixels below the upper edge of the figure."""
    width, height = figure.get_size_inches() * DPI
    figure.text(left / width, 1 - top / height, text, va="center", **style)


def _axes(figure: Any, left: float, top: float, across: float, down: float) -> Any:
    """Return axes at these pixels, counted from the upper left corner of the figure."""
    width, height = figure.get_size_inches() * DPI
    return figure.add_axes((left / width, 1 - (top + down) / height, across / width, down / height))


def _place(figure: Any, picture: npt.NDArray[np.uint8], left: float, top: float) -> None:
    """Draw a picture pixel by pixel."""
    axes = _axes(figure, left, top, picture.shape[1], picture.shape[0])
    axes.imshow(picture, interpolation="nearest", aspect="auto")
    axes.set_axis_off()


def _colour_bar(figure: Any, limits: Limits, left: float, top: float, down: float) -> None:
    """Draw the colours of depth beside the two rows of depth, the nearest at the top."""
    axes = _axes(figure, left, top, 12, down)
    shades = depth_colours(np.linspace(*limits, 256, dtype=np.float32)[:, None].clip(math.ulp(0)), limits)
    axes.imshow(shades, aspect="auto", extent=(0, 1, limits[1], limits[0]))
    axes.xaxis.set_visible(False)
    axes.yaxis.tick_right()
    axes.set_title("metres", fontsize=9, loc="left")


def _save(figure: Any, path: Path) -> None:
    with replaced_atomically(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")

"""A recording of an imagined future for the Rerun viewer, which moves through time and space by hand.

`rerun <file>` shows it. The package comes with the extra `viz`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from envs.files import replaced_atomically
from rl.evaluation.futures.clips import Future, View
from rl.evaluation.futures.clouds import Box, cloud_of

GET_RERUN = "pip install -c constraints.txt -e '.[viz]'"
TIMELINE = "time"
POINT_RADIUS = 0.004  # metres


class RerunMissing(RuntimeError):
    """The package rerun-sdk is not installed."""


def write_recording(path: Path, future: Future, seconds: Sequence[float], box: Box | None = None) -> None:
    """Write pictures, depth, camera poses and the points of all cameras, true and imagined, as an RRD file.

    `seconds` [T] are the times of the moments. The points are those in the box. Raises RerunMissing without rerun-sdk.
    """
    rerun = _rerun()
    with replaced_atomically(path) as temporary:
        recording = rerun.RecordingStream("imagined_future")
        recording.save(temporary)
        for side in ("true", "imagined"):
            recording.log(side, rerun.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        for index, second in enumerate(seconds):
            recording.set_time(TIMELINE, duration=float(second))
            for side, clips in (("true", future.true), ("imagined", future.imagined)):
                views = {name: clip.at(index) for name, clip in clips.items()}
                for name, view in views.items():
                    _log_view(rerun, recording, f"{side}/{name}", view)
                cloud = cloud_of(views.values(), box)
                points = rerun.Points3D(cloud.points, colors=cloud.colours, radii=POINT_RADIUS)
                recording.log(f"{side}/points", points)
        recording.flush()
        recording.disconnect()


def _log_view(rerun: ModuleType, recording: Any, place: str, view: View) -> None:
    """Log a view of a camera below `place`: its pose, its lens, and its pictures in front of the lens."""
    height, width = view.depth.shape
    pose = rerun.Transform3D(translation=view.pose[:3, 3], mat3x3=view.pose[:3, :3])
    lens = rerun.Pinhole(
        image_from_camera=view.intrinsics, resolution=[width, height], camera_xyz=rerun.ViewCoordinates.RDF
    )
    recording.log(place, pose)
    recording.log(f"{place}/lens", lens)
    recording.log(f"{place}/lens/rgb", rerun.Image(view.rgb))
    recording.log(f"{place}/lens/depth", rerun.DepthImage(view.depth, meter=1.0))


def _rerun() -> ModuleType:
    try:
        import rerun
    except ModuleNotFoundError as error:
        raise RerunMissing(f"a recording needs the package rerun-sdk: {GET_RERUN}") from error
    return rerun

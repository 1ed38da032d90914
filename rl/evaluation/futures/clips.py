"""What a camera sees over time, true or imagined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

Pictures = npt.NDArray[np.uint8]
"""RGB, uint8 [..., H, W, 3]."""

Depth = npt.NDArray[np.float32]
"""Metres along the optical axis, float32 [..., H, W]; 0 where nothing was measured."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """What one camera sees at one moment.

    Pixel column i covers the range from i to i + 1 on the horizontal axis of the intrinsics, and rows likewise, as in
    SAPIEN: the principal point of a centred camera is at W / 2. The camera's axes are OpenCV's: x points to the right,
    y down and z forward.
    """

    rgb: Pictures  # uint8 [H, W, 3]
    depth: Depth  # float32 [H, W], metres
    intrinsics: Array  # [3, 3], in pixels
    pose: Array  # [4, 4], from the camera to the world, metres


@dataclass(frozen=True)
class Clip:
    """What one camera sees over T moments. Intrinsics and poses are as those of `View`."""

    rgb: Pictures  # uint8 [T, H, W, 3]
    depth: Depth  # float32 [T, H, W], metres
    intrinsics: Array  # [3, 3], in pixels
    poses: Array  # [T, 4, 4], from the camera to the world, metres

    def __post_init__(self) -> None:
        shapes = self.rgb.shape, self.depth.shape, self.intrinsics.shape, self.poses.shape
        wanted = (*self.depth.shape, 3), self.depth.shape, (3, 3), (*self.depth.shape[:1], 4, 4)
        if self.depth.ndim != 3 or shapes != wanted or self.rgb.dtype != np.uint8:
            raise ValueError(
                "a clip needs rgb uint8 [T, H, W, 3], depth [T, H, W], intrinsics [3, 3] and poses [T, 4, 4], not "
                + ", ".join(str(list(shape)) for shape in shapes)
                + f" with rgb {self.rgb.dtype}"
            )

    def __len__(self) -> int:
        return len(self.rgb)

    def at(self, index: int) -> View:
        """Return the moment with this index."""
        return View(self.rgb[index], self.depth[index], self.intrinsics, self.poses[index])


@dataclass(frozen=True)
class Future:
    """The same moments as all cameras saw them and as a model imagined them, by the name of the camera."""

    true: Mapping[str, Clip]
    imagined: Mapping[str, Clip]

    def __post_init__(self) -> None:
        sizes: list[dict[str, tuple[int, ...]]]
        sizes = [{name: clip.rgb.shape for name, clip in clips.items()} for clips in (self.true, self.imagined)]
        moments = {shape[0] for shape in sizes[0].values()}
        if sizes[0] != sizes[1] or len(moments) != 1 or moments == {0}:
            raise ValueError(f"true and imagined differ in cameras, moments or size: {sizes[0]} and {sizes[1]}")

    @classmethod
    def of(cls, true: Mapping[str, Clip], imagined: Mapping[str, tuple[Pictures, Depth]]) -> Self:
        """Put imagined pictures and depth into the true cameras, at their true poses."""
        return cls(
            true,
            {
                name: Clip(rgb, depth, true[name].intrinsics, true[name].poses)
                for name, (rgb, depth) in imagined.items()
            },
        )

    def __len__(self) -> int:
        return len(next(iter(self.true.values())))

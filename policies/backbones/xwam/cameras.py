"""Between the pictures of all cameras and the latents in which each camera has its own rectangle of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from configs.pretraining import XWAMConfig
from policies.backbones.codecs import LatentCodec
from policies.backbones.depth_pictures import depth_of_signal
from policies.backbones.shapes import COMPRESSION, View

Pictures = Mapping[str, npt.NDArray[np.uint8]]
"""The pictures of each camera by its name, uint8 [B, T, H, W, 3] with T = 4k + 1."""


def encode_cameras(codec: LatentCodec, pictures: Pictures, views: Sequence[View]) -> Tensor:
    """Encode each camera apart. Returns latents [B, C, k + 1, h, w]. Pictures of another size are resized."""
    parts = {
        view: codec.encode(_resized(pictures[view.camera], view.height * COMPRESSION, view.width * COMPRESSION))
        for view in views
    }
    return placed(parts)


def placed(parts: Mapping[View, Tensor]) -> Tensor:
    """Put the latents [B, C, F, rows, columns] of all views together. Returns [B, C, F, h, w]."""
    first = next(iter(parts.values()))
    height, width = max(view.rows.stop for view in parts), max(view.columns.stop for view in parts)
    out = torch.zeros(*first.shape[:3], height, width, device=first.device)
    for view, part in parts.items():
        out[:, :, :, view.rows, view.columns] = part
    return out


def decode_cameras(codec: LatentCodec, latents: Tensor, views: Sequence[View]) -> dict[str, npt.NDArray[np.float32]]:
    """Decode latents [B, C, k + 1, h, w] to float32 [B, 4k + 1, H, W, 3] in [-1, 1] by the camera's name."""
    return {view.camera: codec.decode_signal(latents[:, :, :, view.rows, view.columns]) for view in views}


def depth_range(config: XWAMConfig, camera: str) -> tuple[float, float]:
    """Return the nearest and the farthest distance of a camera, in metres."""
    near, far = config.head_range if camera == "head" else config.wrist_range
    return near, far


def metres_of(config: XWAMConfig, signals: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, npt.NDArray[np.float32]]:
    """Convert decoded inverse depth [..., H, W, 3] to metres [..., H, W], by the camera's name."""
    return {camera: depth_of_signal(signal, *depth_range(config, camera)) for camera, signal in signals.items()}


def _resized(pictures: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Resize pictures [B, T, H, W, 3]. Raises ValueError for another aspect ratio: they would be distorted."""
    stored = pictures.shape[2:4]
    if stored[0] * width != stored[1] * height:
        raise ValueError(f"pictures of {stored[1]} x {stored[0]} pixels do not fit a view of {width} x {height}")
    if stored == (height, width):
        return pictures
    flat = pictures.reshape(-1, *pictures.shape[2:])
    resized = np.stack([cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA) for picture in flat])
    return resized.reshape(*pictures.shape[:2], height, width, 3).astype(np.uint8)

"""What a LeRobot dataset stores about its features, for each episode and for all: min, max, mean, std and count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

SAMPLED_FRAMES = 100  # as many of an episode's pictures are looked at, spread evenly

Statistics = dict[str, npt.NDArray[np.number[Any]]]
"""`min`, `max`, `mean`, `std` and `count` of one feature."""


def of_column(values: npt.NDArray[np.number[Any]]) -> Statistics:
    """The statistics of a feature [N], [N, A] or [N, A, B]; each is [1], [A] or [A, B]."""
    rows = values if values.ndim > 1 else values[:, None]
    return {
        "min": rows.min(0),
        "max": rows.max(0),
        "mean": rows.mean(0, dtype=np.float64),
        "std": rows.std(0, dtype=np.float64),
        "count": np.array([len(rows)]),
    }


def of_depth(values: npt.NDArray[np.float32]) -> Statistics:
    """The statistics of depth pictures [N, H, W] over all pixels together; each is [1, 1]."""
    return {
        "min": values.min(keepdims=True)[0],
        "max": values.max(keepdims=True)[0],
        "mean": values.mean(keepdims=True, dtype=np.float64)[0],
        "std": values.std(keepdims=True, dtype=np.float64)[0],
        "count": np.array([len(values)]),
    }


def of_pictures(frames: npt.NDArray[np.uint8]) -> Statistics:
    """The statistics of pictures [N, H, W, 3], as numbers in [0, 1]; each is [3, 1, 1]."""
    sampled = frames[:: max(1, -(-len(frames) // SAMPLED_FRAMES))]
    counts = np.stack([np.bincount(sampled[..., colour].reshape(-1), minlength=256) for colour in range(3)])
    levels = np.arange(256) / 255
    mean = counts @ levels / counts.sum(1)
    values = {
        "min": levels[np.argmax(counts > 0, axis=1)],
        "max": levels[255 - np.argmax(counts[:, ::-1] > 0, axis=1)],
        "mean": mean,
        "std": np.sqrt((counts @ levels**2 / counts.sum(1) - mean**2).clip(0)),
    }
    return {name: value.reshape(3, 1, 1) for name, value in values.items()} | {"count": np.array([len(sampled)])}


def merged(parts: Sequence[Statistics]) -> Statistics:
    """The statistics of several episodes together, from those of each."""
    counts = np.array([part["count"][0] for part in parts], np.float64)
    means = np.stack([part["mean"] for part in parts])
    weights = (counts / counts.sum()).reshape(-1, *[1] * (means.ndim - 1))
    mean = (weights * means).sum(0)
    variance = (weights * (np.stack([part["std"] for part in parts]) ** 2 + (means - mean) ** 2)).sum(0)
    return {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": np.array([int(counts.sum())]),
    }

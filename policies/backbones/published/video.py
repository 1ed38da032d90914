"""A published video model that does not act. It can be described and filled, and starts Stage 1 of a mixture."""

from __future__ import annotations

from torch import nn

from policies.backbones.published.layout import Layout, Size
from policies.backbones.published.mixture import video_expert


class VideoModel(nn.Module):
    """A video expert alone, under the name that it has in a mixture."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.video = video_expert(size)


def build(layout: Layout, size: Size) -> VideoModel:
    """Return the network of a layout with random weights."""
    return VideoModel(size)

"""What the shapes of backbones follow from: the autoencoder's compression, and the cells of the cameras."""

from __future__ import annotations

from dataclasses import dataclass

from configs.pretraining import PretrainConfig

OBSERVED_FRAMES = 1
COMPRESSION = 16
TEXT_LENGTH = 16  # the words of an instruction that a small text encoder reads


def latent_frames(config: PretrainConfig) -> int:
    """Return the number of latent frames: one observed frame, and one for every four future pictures."""
    return OBSERVED_FRAMES + (config.frames - 1) // 4


def latent_grid(config: PretrainConfig) -> tuple[int, int]:
    """Return the latent cells (h, w) of a head camera above two wrist cameras of half its side."""
    return 3 * config.head_size // (2 * COMPRESSION), config.head_size // COMPRESSION


@dataclass(frozen=True)
class View:
    """The latent cells of one camera. A cell is `COMPRESSION` pixels wide and high."""

    camera: str
    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.left + self.width)


def views_of(config: PretrainConfig) -> tuple[View, View, View]:
    """Return the rectangles of the cameras' cells: a head camera above two wrist cameras of half its side."""
    head = config.head_size // COMPRESSION
    wrist = head // 2
    return (
        View("head", 0, 0, head, head),
        View("left_wrist", head, 0, wrist, wrist),
        View("right_wrist", head, wrist, wrist, wrist),
    )

"""How predicted returns are rated: by their signal-to-noise ratio (WAV 4.3).

The ratio is a mean divided by a standard deviation. It prefers certainty only while means are positive. A negative mean
divided by a larger standard deviation is a larger number, so that the ratio prefers the *noisier* of two bad futures,
and a bad noisy one to a less bad certain one. Returns are negative as soon as penalties outweigh rewards, or where they
are standardised. `shifted` therefore measures returns from the lowest one that the value expert was trained on, if that
is negative. It is the paper's ratio where no return is negative.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rate(returns: Tensor, score: str, lowest: float, epsilon: float) -> Tensor:
    """Rate predicted returns float32 [..., H] by their mean and standard deviation over H. Returns float32 [...].

    `score` is `ratio`, `shifted` or `mean`. `lowest` is the lowest return that the value expert knows. A prediction
    that is not finite is rated minus infinity, so that it never wins.
    """
    mean, std = returns.mean(dim=-1), returns.std(dim=-1, correction=0)
    if score == "mean":
        rating = mean
    elif score == "ratio":
        rating = mean / (std + epsilon)
    else:
        rating = (mean - min(lowest, 0.0)).clamp_min(0.0) / (std + epsilon)
    return torch.where(rating.isfinite(), rating, -torch.inf)


def pooled(ratings: Tensor, video_score: str) -> Tensor:
    """Return the scores float32 [...] of videos from the ratings of their values [..., N], by `best` or `mean`."""
    return ratings.amax(dim=-1) if video_score == "best" else ratings.mean(dim=-1)

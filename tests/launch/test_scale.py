"""What a runner costs the driver: one object for all runners, and a line through what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from launch.measuring import scale
from launch.measuring.scale import Model, Point, draw, fitted, measure
from tests.rl.recipes import analytic_settings

CONTENT = {"errors": np.zeros((16, 2))}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_up")
def test_a_round_is_one_object_however_many_runners(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are put once, and requests and replies are too small for the object store."""
    monkeypatch.setattr(scale, "ROUNDS", 2)
    one, two = (measure(analytic_settings(), CONTENT, count, work_s=0.05) for count in (1, 2))
    assert one.objects == two.objects == 1
    assert one.object_bytes == two.object_bytes
    assert one.reply_bytes == CONTENT["errors"].nbytes
    assert one.broadcast_s + one.round_s >= 0.05


def point(runners: int, driver_cpu_s: float) -> Point:
    return Point(runners, 256, 1.1, driver_cpu_s, 0.01, 1.0, 1000.0)


def test_the_model_is_a_line_and_says_where_the_driver_and_the_learner_are_full(tmp_path: Path) -> None:
    points = [point(count, 0.1 + 0.01 * count) for count in (1, 4, 16)]
    model = fitted(points, learn_s=0.05)
    assert model.fixed_s == pytest.approx(0.1)
    assert model.each_s == pytest.approx(0.01)
    assert model.driver_s(512) == pytest.approx(5.22)
    assert model.full_at(1.1) == pytest.approx(100)
    assert Model(0.1, 0.01, 0.05).learner_full_at(1.0) == pytest.approx(20)
    draw(tmp_path / "scale.png", points, model, work_s=1.0)
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")

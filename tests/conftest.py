"""Tests that render are skipped, with the reason, on machines without a Vulkan device."""

from __future__ import annotations

import os

import pytest

from launch.machine import Finding, probe_vulkan

os.environ.setdefault("OMP_NUM_THREADS", "1")

_vulkan: list[Finding] = []


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("render") is None:
        return
    if not _vulkan:
        _vulkan.append(probe_vulkan())
    if not _vulkan[0].ok:
        pytest.skip(f"no Vulkan device: {_vulkan[0].detail}")

"""Memory that a control group takes away is not counted as free."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from policies import memory
from policies.memory import GIB, host_memory, require_memory


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def own(folder: Path, text: str) -> Path:
    (folder / "own").write_text(text)
    return folder / "own"


def test_without_control_groups_the_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 7})())
    assert host_memory(tmp_path, tmp_path / "nowhere") == 7


def test_the_tightest_group_around_the_process_counts(tmp_path: Path) -> None:
    outer, inner = tmp_path / "job", tmp_path / "job" / "step"
    group(outer, memory__max=3 * 2**20, memory__current=2**20, memory__stat="anon 5\ninactive_file 4096")
    group(inner, memory__max="max", memory__current=2**19)
    assert host_memory(tmp_path, own(tmp_path, "0::/job/step\n")) == 2 * 2**20 + 4096


def test_the_first_version_of_control_groups(tmp_path: Path) -> None:
    group(tmp_path / "memory" / "a", memory__limit_in_bytes=2**20, memory__usage_in_bytes=2**18)
    assert host_memory(tmp_path, own(tmp_path, "5:cpu:/other\n4:memory:/a\n0::/\n")) == 2**20 - 2**18


def test_a_container_that_sees_another_path(tmp_path: Path) -> None:
    """The path of the group is the host's, and the folder that is mounted is the group itself."""
    group(tmp_path, memory__max=2**20, memory__current=2**21)
    assert host_memory(tmp_path, own(tmp_path, "0::/docker/0123\n")) == 0


def test_too_much_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "host_memory", lambda: 2 * GIB)
    require_memory(2 * GIB, torch.device("cpu"), "fastwam-idm")
    with pytest.raises(ValueError, match=r"fastwam-idm needs 12.5 GiB, and this machine .* has 2.0 GiB free"):
        require_memory(int(12.5 * GIB), torch.device("cpu"), "fastwam-idm")

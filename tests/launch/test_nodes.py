"""What is said of a cluster's nodes. tests/rl/test_cluster_jobs.py looks at real ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from envs.findings import Finding, Status
from launch.machine.nodes import PACKAGES, Node, judge, path_state

GOOD = Node(
    name="10.0.0.1",
    versions=dict.fromkeys(("python", *PACKAGES), "1.0"),
    gpus=["0 GPU-a"],
    promised_gpus=1.0,
    mig=False,
    paths={"/mnt/wam/": "there"},
    disk_gib=100.0,
    shared_memory_gib=16.0,
    token="",
    listening=[],
    cuda=Finding("cuda", Status.ok, "H100"),
    vulkan=Finding("vulkan", Status.ok, "NVIDIA H100"),
)


def wrong(*nodes: Node) -> list[Finding]:
    return [finding for finding in judge(nodes) if finding.status is not Status.ok]


def test_a_good_cluster_has_one_line_a_node_and_nothing_wrong() -> None:
    assert wrong(GOOD, replace(GOOD, name="10.0.0.2")) == []
    (nodes,) = [finding for finding in judge([GOOD]) if finding.name == "nodes"]
    assert nodes.detail == "1, 1 GPUs: 10.0.0.1"


@pytest.mark.parametrize(
    ("change", "words", "status"),
    [
        ({"versions": {**GOOD.versions, "ray": "2.0"}}, "1.0 on 10.0.0.1; 2.0 on 10.0.0.2", Status.missing),
        ({"paths": {"/mnt/wam/": "missing"}}, "missing on 10.0.0.2", Status.missing),
        ({"gpus": []}, "the driver lists 0", Status.missing),
        ({"cuda": Finding("cuda", Status.ok, "none (torch 2)")}, "CUDA: none", Status.missing),
        ({"vulkan": Finding("vulkan", Status.missing, "no driver", "make setup")}, "no driver", Status.missing),
        ({"vulkan": Finding("vulkan", Status.ok, "llvmpipe")}, "renders on the CPU", Status.note),
        ({"problems": ["nvidia-smi gave no list"]}, "gave no list", Status.missing),
        ({"mig": True}, "split by MIG", Status.note),
        ({"skew_s": -7.0}, "its clock is -7.0 s", Status.note),
        ({"disk_gib": 1.0}, "1.0 GiB free", Status.note),
        ({"shared_memory_gib": 0.1}, "0.1 GiB of shared memory", Status.note),
        ({"token": "/home/a/.ray/auth_token"}, "can be read by other users", Status.note),
        ({"listening": ["0.0.0.0:8265"]}, "0.0.0.0:8265 takes jobs", Status.note),
    ],
)
def test_what_is_wrong_is_named_with_its_node_and_a_fix(change: dict[str, object], words: str, status: Status) -> None:
    (finding,) = wrong(GOOD, replace(GOOD, name="10.0.0.2", **change))  # type: ignore[arg-type]
    assert words in finding.detail
    assert "10.0.0.2" in f"{finding.name} {finding.detail}"
    assert (finding.status, bool(finding.fix)) == (status, True)


def test_a_path_is_there_or_missing_and_a_file_has_a_size(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("12345")
    assert path_state(f"{tmp_path}/") == "there"
    assert path_state(str(tmp_path / "weights")) == "there, 5 bytes"
    assert path_state(str(tmp_path / "gone")) == "missing"

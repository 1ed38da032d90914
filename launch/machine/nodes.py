"""What every node of a Ray cluster is like: `look` runs on each of them, and `judge` compares what they saw."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from envs.findings import Finding, Status
from envs.process.gpus import GPUError, list_gpus
from launch.machine import findings
from rl.engine.tokens import readable_by_others, token_file

PACKAGES = ("ray", "torch", "numpy", "sapien")
SKEW_S = 2.0
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
SERVERS = ("dashboard/dashboard.py", "ray.util.client.server")
"""What takes commands from whoever has the token: the job server behind the dashboard, and that of Ray Client."""
SEARCH_S = 300.0
MARK = "FINDINGS "
"""What `main` prints before its findings."""


@dataclass(frozen=True)
class Node:
    """The findings about one node of a cluster."""

    name: str
    versions: dict[str, str]
    gpus: list[str]
    promised_gpus: float  # those that Ray was told of
    mig: bool
    paths: dict[str, str]  # path -> what is there, as in `path_state`
    disk_gib: float
    shared_memory_gib: float
    token: str  # the file, if other users can read it
    listening: list[str]  # addresses of `SERVERS` that others than this node can reach
    cuda: Finding
    vulkan: Finding
    skew_s: float = 0.0  # by how much its clock is ahead of the driver's
    problems: list[str] = field(default_factory=list)


def look(name: str, promised_gpus: float, paths: Sequence[str]) -> Node:
    """Look at this node. `paths` that end with a slash are folders that must be writable."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # Ray hides the GPUs from what asks for none
    problems = []
    try:
        gpus = list_gpus()
    except GPUError as error:
        gpus, problems = (), [str(error)]
    token = token_file()
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    return Node(
        name=name,
        versions={"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}},
        gpus=[f"{gpu.index} {gpu.uuid}" for gpu in gpus],
        promised_gpus=promised_gpus,
        mig=any(gpu.mig for gpu in gpus),
        paths={path: path_state(path) for path in paths},
        disk_gib=shutil.disk_usage(os.environ.get("RAY_TMPDIR") or "/tmp").free / findings.GIB,
        shared_memory_gib=shared / findings.GIB,
        token=str(token) if token.is_file() and readable_by_others(token) else "",
        listening=list(_listening()),
        cuda=findings.probe_cuda(),
        vulkan=findings.probe_vulkan(),
        problems=problems,
    )


def path_state(path: str) -> str:
    """Return `there`, `missing`, or `not writable` for a folder that ends with a slash; for files also the size."""
    place = Path(path)
    if not place.exists():
        return "missing"
    if path.endswith("/") and not os.access(place, os.W_OK):
        return "not writable"
    if place.is_dir():
        return "there"
    return f"there, {place.stat().st_size} bytes"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _listening() -> Iterator[str]:
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or ())
        if not any(server in command for server in SERVERS):
            continue
        try:
            connections = process.net_connections(kind="tcp")
        except psutil.Error:
            continue
        for one in connections:
            if one.status == psutil.CONN_LISTEN and one.laddr.ip not in LOOPBACK:
                yield f"{one.laddr.ip}:{one.laddr.port}"


def judge(nodes: Sequence[Node]) -> list[Finding]:
    """Return the findings of a cluster. What is wrong is named with its node."""
    gpus = sum(node.promised_gpus for node in nodes)
    found = [Finding("nodes", Status.ok, f"{len(nodes)}, {gpus:g} GPUs: {', '.join(node.name for node in nodes)}")]
    found += _versions(nodes)
    found += _paths(nodes)
    for node in nodes:
        found += _about(node)
    return found


def _versions(nodes: Sequence[Node]) -> Iterator[Finding]:
    for package in ("python", *PACKAGES):
        there: dict[str, list[str]] = {}
        for node in nodes:
            there.setdefault(node.versions[package], []).append(node.name)
        if len(there) > 1:
            detail = "; ".join(f"{number} on {', '.join(names)}" for number, names in there.items())
            fix = "Install the same environment on every node: `make setup`, or one image (docs/cluster.md)"
            yield Finding(f"version of {package}", Status.missing, detail, fix)
        else:
            yield Finding(f"version of {package}", Status.ok, next(iter(there)))


def _paths(nodes: Sequence[Node]) -> Iterator[Finding]:
    for path in nodes[0].paths:
        states: dict[str, list[str]] = {}
        for node in nodes:
            states.setdefault(node.paths[path], []).append(node.name)
        alike = len(states) == 1 and next(iter(states)).startswith("there")
        detail = "; ".join(f"{state} on {', '.join(names)}" for state, names in states.items())
        fix = "" if alike else f"Mount the same folder at {path} on every node, writable by the user of Ray"
        yield Finding(path, Status.ok if alike else Status.missing, detail, fix)


def _about(node: Node) -> Iterator[Finding]:
    """Yield what is wrong with a node, or one line that nothing is."""
    name = node.name
    found = [Finding(name, Status.missing, problem, "nvidia-smi") for problem in node.problems]
    if node.promised_gpus > len(node.gpus):
        detail = f"Ray was told of {node.promised_gpus:g} GPUs, and the driver lists {len(node.gpus)}"
        found.append(
            Finding(name, Status.missing, detail, "nvidia-smi  (on the node), or start Ray with fewer --num-gpus")
        )
    if node.promised_gpus and (not node.cuda.ok or node.cuda.detail.startswith("none")):
        found.append(Finding(name, Status.missing, f"CUDA: {node.cuda.detail}", node.cuda.fix or "nvidia-smi"))
    if not node.vulkan.ok:
        found.append(Finding(name, Status.missing, f"Vulkan: {node.vulkan.detail}", node.vulkan.fix))
    elif node.gpus and "llvmpipe" in node.vulkan.detail:
        fix = "set NVIDIA_DRIVER_CAPABILITIES=all for the container, or install the Vulkan part of NVIDIA's driver"
        found.append(Finding(name, Status.note, f"renders on the CPU, though it has GPUs: {node.vulkan.detail}", fix))
    if node.mig:
        found.append(Finding(name, Status.note, "a GPU is split by MIG, and cannot render", "nvidia-smi -mig 0"))
    if abs(node.skew_s) > SKEW_S:
        detail = f"its clock is {node.skew_s:+.1f} s from the driver's"
        found.append(Finding(name, Status.note, detail, "chronyc makestep  (on the node)"))
    if node.disk_gib < findings.NEEDED_DISK_GIB:
        detail = f"{node.disk_gib:.1f} GiB free for Ray's files; {findings.NEEDED_DISK_GIB} are enough"
        found.append(Finding(name, Status.note, detail, "ray start --temp-dir=/larger/disk  (on the node)"))
    if node.shared_memory_gib < findings.NEEDED_SHARED_MEMORY_GIB:
        detail = f"{node.shared_memory_gib:.1f} GiB of shared memory are free: Ray falls back to a disk, slowly"
        found.append(
            Finding(name, Status.note, detail, "mount -o remount,size=16G /dev/shm, or --shm-size=16g of docker")
        )
    if node.token:
        found.append(Finding(name, Status.note, f"{node.token} can be read by other users", f"chmod 600 {node.token}"))
    for address in node.listening:
        detail = f"{address} takes jobs from whoever has the token, and is not on loopback"
        found.append(Finding(name, Status.note, detail, "ray start --dashboard-host=127.0.0.1  (and a tunnel)"))
    yield from found or [
        Finding(name, Status.ok, f"Vulkan {node.vulkan.detail}; {len(node.gpus)} GPUs; nothing is wrong")
    ]


def look_everywhere(paths: Sequence[str]) -> list[Node]:
    """Look at every node of the cluster, in which Ray must be running. Raises RuntimeError if one does not answer."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def here(node: dict[str, Any]) -> dict[str, Any]:
        return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)}

    nodes = [node for node in ray.nodes() if node["Alive"]]
    names = [f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})" for node in nodes]
    gpus = [node["Resources"].get("GPU", 0.0) for node in nodes]
    looks = [
        ray.remote(look).options(**here(node)).remote(name, gpu, list(paths))
        for node, name, gpu in zip(nodes, names, gpus, strict=True)
    ]
    try:
        seen: list[Node] = ray.get(looks, timeout=SEARCH_S)
    except ray.exceptions.GetTimeoutError as error:
        done, _ = ray.wait(looks, num_returns=len(looks), timeout=0)
        late = [name for name, one in zip(names, looks, strict=True) if one not in done]
        raise RuntimeError(f"No answer within {SEARCH_S:g} s from {', '.join(late)}") from error
    skews = [_skew(ray.remote(clock).options(**here(node))) for node in nodes]
    return [Node(**{**vars(node), "skew_s": skew}) for node, skew in zip(seen, skews, strict=True)]


def clock() -> float:
    """Return the time of this node, in seconds since 1970."""
    return time.time()


def _skew(there: Any) -> float:
    """Return by how much a clock is ahead of ours: the best of three, since an answer takes time."""
    import ray

    measured = []
    for _ in range(3):
        begin = time.time()
        its = ray.get(there.remote())
        end = time.time()
        measured.append((end - begin, its - (begin + end) / 2))
    took, skew = min(measured)
    return 0.0 if abs(skew) < took else skew


def main() -> int:
    """Print the findings as JSON, after a mark, for `launch.doctor cluster`. The arguments are paths to look for."""
    from launch.shell.console import console
    from launch.shell.environment import set_environment
    from rl.engine.cluster import ray_session

    set_environment()
    with ray_session(Path("."), cpus=1):
        found = judge(look_everywhere(sys.argv[1:]))
    console.print(MARK + json.dumps([asdict(one) for one in found]), soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Probes of this machine. Every probe returns a `Finding`. Native code is loaded in a separate process."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from configs.schema import EnvConfig, WAMConfig
from envs.findings import PROBE_SECONDS, Finding, Status
from policies.backbones.checkpoint_files import read_config, resolve_checkpoint, verified_hash
from policies.memory import GIB, host_memory
from rl.engine.tokens import readable_by_others, token_file

REPOSITORY = Path(__file__).resolve().parents[2]
NEEDED_MEMORY_GIB = 10
NEEDED_DISK_GIB = 10
NEEDED_SHARED_MEMORY_GIB = 2
ICD_DIRECTORIES = (
    Path("/usr/share/vulkan/icd.d"),
    Path("/etc/vulkan/icd.d"),
    Path(os.path.expanduser("~/.local/share/vulkan/icd.d")),  # unlike Path.home(), it takes a user without a home
)
REPAIR = "rm -f .venv/.packages && make setup"

VULKAN_PROBE = "from envs.tabletop.rendering import render_device; print(render_device())"
RAY_PROBE = "import ray.rllib, ray; print('ray', ray.__version__)"
CUDA_PROBE = (
    "import torch; n = torch.cuda.device_count(); "
    "print(', '.join(torch.cuda.get_device_name(i) for i in range(n)) or f'none (torch {torch.__version__})')"
)


def examine(wam: WAMConfig) -> list[Finding]:
    """Run every probe and return the findings, the quick ones first."""
    probes: tuple[Callable[[], Finding], ...] = (
        probe_python,
        probe_packages,
        probe_memory,
        probe_disk,
        probe_shared_memory,
        probe_ray_token,
        partial(probe_backbone, wam),
        probe_drivers,
        probe_vulkan,
        probe_cuda,
        probe_ray,
    )
    return [probe() for probe in probes]


def probe_python() -> Finding:
    found = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}, {os.cpu_count()} cores"
    if sys.version_info[:2] == (3, 11):
        return Finding("python", Status.ok, found)
    return Finding("python", Status.missing, f"{found}; 3.11 is needed", "make setup PYTHON=/path/to/python3.11")


def pinned_packages(setup_cfg: Path = REPOSITORY / "setup.cfg") -> dict[str, str]:
    """Return the exact version of each package in `install_requires`."""
    parser = configparser.ConfigParser()
    parser.read(setup_cfg, encoding="utf-8")
    lines = parser["options"]["install_requires"].split()
    pins = (re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?==(\S+)", line) for line in lines)
    return {pin[1]: pin[2] for pin in pins if pin}


def probe_packages() -> Finding:
    good: list[str] = []
    bad: list[str] = []
    for name, wanted in pinned_packages().items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "not installed"
        (good if found.partition("+")[0] == wanted else bad).append(f"{name} {found}")
    if bad:
        return Finding("packages", Status.missing, f"not as pinned: {', '.join(bad)}", REPAIR)
    return Finding("packages", Status.ok, ", ".join(good))


def probe_memory() -> Finding:
    """Probe the memory that is available to this process. A control group may limit it."""
    available = host_memory() / GIB
    detail = f"{available:.1f} GiB available; the main job needs up to {NEEDED_MEMORY_GIB}"
    if available >= NEEDED_MEMORY_GIB:
        return Finding("memory", Status.ok, detail)
    return Finding("memory", Status.note, detail, 'make train-sants ARGS="rollout.runners=1 evaluation.processes=1"')


def probe_disk() -> Finding:
    free = shutil.disk_usage(REPOSITORY).free / GIB
    detail = f"{free:.1f} GiB free at {REPOSITORY}; {NEEDED_DISK_GIB} are enough"
    if free >= NEEDED_DISK_GIB:
        return Finding("disk", Status.ok, detail)
    return Finding("disk", Status.note, detail, 'make train-sants ARGS="run.root=/larger/disk/runs"')


def probe_shared_memory(path: Path = Path("/dev/shm")) -> Finding:
    if not path.is_dir():
        return Finding(
            "shared memory", Status.note, f"no {path}: Ray uses /tmp, slowly", f"sudo mount -t tmpfs tmpfs {path}"
        )
    free = shutil.disk_usage(path).free / GIB
    detail = f"{free:.1f} GiB free at {path}"
    if free >= NEEDED_SHARED_MEMORY_GIB:
        return Finding("shared memory", Status.ok, detail)
    fix = f"sudo mount -o remount,size={NEEDED_SHARED_MEMORY_GIB}G {path}"
    return Finding("shared memory", Status.note, f"{detail}: Ray falls back to /tmp, slowly", fix)


def probe_ray_token() -> Finding:
    """Probe whether other users can read Ray's access token, which is so under the usual umask."""
    token = token_file()
    if not os.path.isfile(token):  # unlike the method of Path, it takes a folder that may not be read
        return Finding("ray token", Status.ok, "none yet; each run makes its own cluster on this machine")
    if readable_by_others(token):
        return Finding("ray token", Status.note, f"{token} can be read by other users", f"chmod 600 {token}")
    return Finding("ray token", Status.ok, f"{token}, readable by its owner only")


def probe_backbone(wam: WAMConfig) -> Finding:
    if wam.backbone != WAMConfig().backbone:
        return Finding("backbone", Status.ok, f"wam.backbone={wam.backbone}")
    try:
        folder = resolve_checkpoint(wam.checkpoint)
        read_config(folder)
        found = verified_hash(folder)
    except ValueError as error:
        fix = "git checkout policies/backbones/checkpoints || make pretrain"
        return Finding("backbone", Status.missing, str(error), fix)
    return Finding("backbone", Status.ok, f"{folder}, hash {found}")


def probe_drivers() -> Finding:
    """List the Vulkan drivers that are declared by ICD files. `probe_vulkan` finds out whether one works."""
    chosen = [f"{name}={os.environ[name]}" for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES") if os.environ.get(name)]
    files = [path.name for directory in ICD_DIRECTORIES for path in sorted(directory.glob("*.json"))]
    detail = "; ".join([*chosen, ", ".join(files) or "no ICD file in " + ", ".join(map(str, ICD_DIRECTORIES))])
    return Finding(
        "vulkan drivers", Status.ok if files or chosen else Status.note, detail, "" if files else "make setup"
    )


def probe_vulkan() -> Finding:
    code, output, error = _run_probe(VULKAN_PROBE)
    if code == 0:
        return Finding("vulkan", Status.ok, output)
    error = re.sub(r"^(\w+\.)+\w+: ", "", error)  # removes the class of the exception
    if "libX11" in error:
        return Finding("vulkan", Status.missing, error, "sudo apt-get install -y libx11-6")
    return Finding("vulkan", Status.missing, error, "make setup  (as root, or it prints the commands)")


def require_renderer(env: EnvConfig) -> None:
    """Raise `SimulatorUnavailable` if the built-in simulator would find no device, before hours of training start."""
    if (env.suite, env.simulator) != (EnvConfig().suite, EnvConfig().simulator):
        return
    finding = probe_vulkan()
    if not finding.ok:
        from envs.outcomes import Outcome
        from envs.process.owner import SimulatorUnavailable

        raise SimulatorUnavailable(Outcome.sim_fault, f"{finding.detail} `make doctor` shows what else is missing.")


def probe_cuda() -> Finding:
    code, output, error = _run_probe(CUDA_PROBE)
    if code:
        return Finding("cuda", Status.missing, error, REPAIR)
    if output.startswith("none") and shutil.which("nvidia-smi"):
        return Finding(
            "cuda",
            Status.note,
            f"nvidia-smi is here, but torch sees {output}",
            "nvidia-smi  (then a torch built for its CUDA)",
        )
    return Finding("cuda", Status.ok, f"{output}; the tiny model needs none" if output.startswith("none") else output)


def probe_ray() -> Finding:
    code, output, error = _run_probe(RAY_PROBE)
    if code == 0:
        return Finding("ray", Status.ok, output)
    if "ray.tune" in error or "pyarrow" in error:
        error = f"import ray.rllib fails, because pyarrow and numpy do not fit (ray says: {error})"
    return Finding("ray", Status.missing, error, REPAIR)


def _run_probe(code: str) -> tuple[int, str, str]:
    """Run code in a process of its own, since native libraries may abort.

    Returns the exit code and the last lines of stdout and stderr.
    """
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, "", f"no answer within {PROBE_SECONDS} s"
    return done.returncode, _last_line(done.stdout), _last_line(done.stderr) or f"exit code {done.returncode}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""

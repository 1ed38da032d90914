"""A Ray cluster of several nodes on this machine, in a process of its own: it takes one command a line.

`python -m tests.ray_cluster HEAD_CPUS` prints the addresses of the head and of its dashboard. `add CPUS GPUS` starts a
node and prints its id. `kill ID` ends the node with SIGKILL, with all of its processes. `head` is the id of the head.
The end of the input ends all.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rl.engine.cluster import SLOW_START, START_ATTEMPTS

REPOSITORY = Path(__file__).resolve().parents[1]
HEAD = "head"


class RayCluster:
    """The cluster, as a test sees it."""

    def __init__(self, folder: Path, head_cpus: int = 2, **environment: str) -> None:
        self._started: list[subprocess.Popen[str]] = []
        self.token = folder / "auth_token"
        self._temporary = tempfile.TemporaryDirectory(dir="/tmp", prefix="rc")  # sockets have short names
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # a job runs `python`
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_TMPDIR": self._temporary.name,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # all listen on loopback only; a client must know it too
            **environment,
        }
        if self.environment["RAY_AUTH_MODE"] == "token":
            self.token.write_text("a" * 64)
            self.token.chmod(0o600)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.ray_cluster", str(head_cpus)],
            cwd=REPOSITORY,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = self._read()
        self.address: str = said["address"]
        self.dashboard: str = said["dashboard"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for started in self._started:
            started.kill()
            started.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._temporary.cleanup()

    def add(self, cpus: int = 1, gpus: int = 0) -> str:
        """Start a node and return its id."""
        return str(self._ask(f"add {cpus} {gpus}")["id"])

    def kill(self, node: str = HEAD) -> None:
        """End a node with all of its processes, as a power cut does."""
        self._ask(f"kill {node}")

    def run(self, *command: str, timeout: float = 150, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python on this machine, as a user of the cluster does."""
        return subprocess.run(
            [sys.executable, *command],
            cwd=REPOSITORY,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start Python as `run` does, and do not wait."""
        started = subprocess.Popen(
            [sys.executable, *command],
            cwd=REPOSITORY,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._started.append(started)
        return started

    def _ask(self, line: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError("The cluster ended")


def main() -> None:
    from ray.cluster_utils import Cluster

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = {"node_ip_address": "127.0.0.1", "dashboard_agent_listen_port": 0}  # else two clusters want the same port
    dashboard = {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": port}
    head = {"num_cpus": int(sys.argv[1]), **here, **dashboard}
    for attempts_left in reversed(range(START_ATTEMPTS)):
        try:
            cluster = Cluster(initialize_head=True, head_node_args=head)
            break
        except Exception as error:  # Ray waits 30 s for its daemons, and raises no more specific class
            if SLOW_START not in str(error) or not attempts_left:
                raise
    nodes: dict[str, Any] = {HEAD: cluster.head_node}
    print(json.dumps({"address": cluster.address, "dashboard": f"http://{cluster.webui_url}"}), flush=True)
    for line in sys.stdin:
        verb, *arguments = line.split()
        if verb == "add":
            node = cluster.add_node(num_cpus=int(arguments[0]), num_gpus=int(arguments[1]), **here)
            nodes[node.node_id] = node
            print(json.dumps({"id": node.node_id}), flush=True)
        else:
            cluster.remove_node(nodes.pop(arguments[0]), allow_graceful=False)
            print("{}", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()

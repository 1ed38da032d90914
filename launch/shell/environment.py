"""The variables of the environment on which a program and its children depend."""

from __future__ import annotations

import os

# Each process uses one thread, because runners and simulators share the cores. Ray's native layer would print warnings
# about RLlib's internals.
VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # else an index of CUDA is another GPU than the same index of the driver
}
# A process that uses Ray exits when the raylet with this number dies. A run must save first, if both get a signal.
SHARED_FATE = "RAY_RAYLET_PID"
# Ray cannot be imported by a user without a home, such as that of a container with any uid. Nothing is written there.
NO_HOME = "/nonexistent"


def set_environment() -> None:
    """Set the variables. It must be called before torch or Ray is imported, since both read them only once."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    os.environ[SHARED_FATE] = str(os.getpid())
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = NO_HOME

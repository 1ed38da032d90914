"""Every fault through the real process protocol, and no orphan afterwards."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from envs.outcomes import Outcome
from envs.process import protocol
from envs.process.owner import (
    Deadlines,
    RecycleLimits,
    SimulatorFault,
    SimulatorProcess,
    SimulatorUnavailable,
    wait_ready,
)
from envs.simulator import SimulatorSpec

FACTORY = "tests.envs.misbehaving:MisbehavingSimulator"
PATIENT = Deadlines(hello=60.0, reset=30.0, step_chunk=30.0, demonstrate=30.0, close=5.0)
SHORT = Deadlines(hello=60.0, reset=0.8, step_chunk=0.8, demonstrate=0.8, close=1.0)
CHUNK = np.zeros((4, 14), np.float32)


def make_simulator(scratch: Path | str = "", limits: RecycleLimits | None = None) -> SimulatorProcess:
    return SimulatorProcess(SimulatorSpec(FACTORY, {"scratch": str(scratch)}), PATIENT, limits)


def workers() -> list[int]:
    return [
        child.pid for child in psutil.Process().children(recursive=True) if "envs.process.worker" in child.cmdline()
    ]


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[SimulatorProcess]:
    with make_simulator(tmp_path) as simulator:
        yield simulator
    assert workers() == []


def fault_of(simulator: SimulatorProcess, task: str) -> SimulatorFault:
    simulator.deadlines = SHORT if "hang" in task else PATIENT
    try:
        simulator.reset(task, "clean", 17)
        simulator.step_chunk(CHUNK)
    except SimulatorFault as fault:
        return fault
    pytest.fail(f"{task} did not misbehave")


def assert_recovers(simulator: SimulatorProcess) -> None:
    simulator.deadlines = PATIENT
    assert simulator.reset("fine", "clean", 17).instruction == "do fine in clean"
    assert simulator.step_chunk(CHUNK).executed == len(CHUNK)


def test_a_chunk_may_be_seen_on_its_way(simulator: SimulatorProcess) -> None:
    simulator.reset("fine", "clean", 3)
    whole, ending = simulator.step_chunk(CHUNK, every=2), simulator.step_chunk(CHUNK, record=True, every=1)
    assert (whole.executed, whole.done, whole.passed["head"].shape) == (4, False, (2, 8, 8, 3))
    assert whole.passed.keys() == whole.observation.keys()
    np.testing.assert_array_equal(whole.passed["head"][-1], whole.observation["head"])
    assert (ending.executed, ending.done, len(ending.passed["joints"])) == (2, True, 2)
    assert ending.frames is not None
    assert len(ending.frames) == 2


def test_an_episode_runs_to_its_end(simulator: SimulatorProcess) -> None:
    first = simulator.reset("fine", "clean", 3)
    assert first.observation["head"].shape == (8, 8, 3)
    assert first.observation["head"].dtype == np.uint8
    assert first.observation["joints"].dtype == np.float32
    half, rest = simulator.step_chunk(CHUNK), simulator.step_chunk(CHUNK, record=True)
    assert (half.executed, half.done, half.frames) == (4, False, None)
    assert (rest.executed, rest.done, rest.success) == (2, True, True)
    assert rest.frames is not None
    assert rest.frames.shape == (2, 4, 4, 3)


def test_the_same_seed_gives_the_same_episode_in_any_process(simulator: SimulatorProcess) -> None:
    with make_simulator() as other:
        other.reset("fine", "clean", 8)
        a, b = simulator.reset("fine", "clean", 3), other.reset("fine", "clean", 3)
    for name in a.observation:
        np.testing.assert_array_equal(a.observation[name], b.observation[name])


@pytest.mark.parametrize(
    ("task", "outcome", "reason"),
    [
        ("raise", Outcome.sim_fault, "the arm fell off"),
        ("reset-raise", Outcome.sim_fault, "the arm fell off"),
        ("reset-segfault", Outcome.sim_fault, "SIGSEGV"),
        ("reset-os_exit", Outcome.sim_fault, "exit code 3"),
        ("reset-nan", Outcome.sim_fault, "'joints' is not finite"),
        ("infeasible", Outcome.infeasible_seed, "no pose fits"),
        ("sys_exit", Outcome.sim_fault, "SystemExit"),
        ("hang", Outcome.timeout, "no answer within 0.8 s"),
        ("reset-hang", Outcome.timeout, "no answer within 0.8 s"),
        ("segfault", Outcome.sim_fault, "SIGSEGV"),
        ("os_exit", Outcome.sim_fault, "exit code 3"),
        ("nan", Outcome.sim_fault, "'joints' is not finite"),
    ],
)
def test_a_fault_is_typed_named_and_survived(
    simulator: SimulatorProcess, task: str, outcome: Outcome, reason: str
) -> None:
    fault = fault_of(simulator, task)
    verb = "reset" if task.startswith("reset-") else "step_chunk"
    assert fault.outcome is outcome
    assert reason in str(fault)
    assert str(fault).startswith(f"{verb} of {task}/clean seed 17: ")
    with pytest.raises(RuntimeError, match="reset first"):
        simulator.step_chunk(CHUNK)
    assert_recovers(simulator)


def test_a_crash_shows_the_last_log_lines(simulator: SimulatorProcess) -> None:
    assert "leaving early" in str(fault_of(simulator, "os_exit"))
    assert "Segmentation fault" in str(fault_of(simulator, "segfault"))


def test_a_hung_process_is_gone(simulator: SimulatorProcess) -> None:
    simulator.reset("hang", "clean", 0)
    simulator.deadlines = SHORT
    pid = simulator.pid
    assert pid is not None
    with pytest.raises(SimulatorFault):
        simulator.step_chunk(CHUNK)
    assert not psutil.pid_exists(pid)
    assert simulator.pid is None


def test_a_process_killed_from_outside_is_replaced(simulator: SimulatorProcess) -> None:
    simulator.reset("fine", "clean", 0)
    assert simulator.pid is not None
    os.kill(simulator.pid, signal.SIGKILL)
    with pytest.raises(SimulatorFault, match="SIGKILL"):
        simulator.step_chunk(CHUNK)
    assert_recovers(simulator)


def test_a_simulator_that_cannot_be_built_is_told_from_an_episode_fault() -> None:
    with (
        SimulatorProcess(SimulatorSpec(FACTORY, {"start_fails": True}), PATIENT) as simulator,
        pytest.raises(SimulatorUnavailable, match="no rendering device"),
    ):
        simulator.reset("fine", "clean", 0)
    assert workers() == []


@pytest.mark.parametrize(
    ("program", "outcome", "reason"),
    [
        ("import time; time.sleep(3600)", Outcome.timeout, "no answer within 0.5 s"),
        ("raise SystemExit('no such library')", Outcome.sim_fault, "exit code 1; last log lines:\nno such library"),
    ],
)
def test_a_worker_that_never_says_hello_is_a_fault(program: str, outcome: Outcome, reason: str) -> None:
    spec = SimulatorSpec(FACTORY, command=(sys.executable, "-c", program))
    with SimulatorProcess(spec, Deadlines(hello=0.5 if "sleep" in program else 60.0)) as simulator:
        simulator.start_reset("fine", "clean", 0)
        assert wait_ready([simulator]) == [simulator]
        with pytest.raises(SimulatorFault) as caught:
            simulator.result()
    assert caught.value.outcome is outcome
    assert str(caught.value).startswith("hello of fine/clean seed 0: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (np.zeros((4, 13)), r"\[T, 14\].*\[4, 13\]"),
        (np.zeros(14), r"\[T, 14\]"),
        (np.zeros((0, 14)), "T >= 1"),
        (np.where(np.arange(28).reshape(2, 14) == 16, np.nan, 0.0), "action 1 of the chunk has nan in column 2"),
    ],
)
def test_a_bad_action_is_refused_and_nothing_is_lost(
    simulator: SimulatorProcess, chunk: np.ndarray, message: str
) -> None:
    simulator.reset("fine", "clean", 0)
    with pytest.raises(ValueError, match=message):
        simulator.step_chunk(chunk)
    assert simulator.step_chunk(CHUNK).executed == 4


def test_one_caller_drives_several_and_a_hang_stops_only_its_own() -> None:
    simulators = [make_simulator() for _ in range(3)]
    try:
        for simulator, task in zip(simulators, ("fine", "hang", "fine"), strict=True):
            simulator.start_reset(task, "clean", 1)
        for simulator in simulators:
            simulator.result()
        simulators[1].deadlines = SHORT
        for simulator in simulators:
            simulator.start_chunk(CHUNK)
        order: list[SimulatorProcess] = []
        while len(order) < 3:
            order += wait_ready([simulator for simulator in simulators if simulator not in order])
        assert order[-1] is simulators[1]
        assert simulators[0].result().executed == simulators[2].result().executed == 4  # type: ignore[union-attr]
        with pytest.raises(SimulatorFault):
            simulators[1].result()
    finally:
        for simulator in simulators:
            simulator.close()
    assert workers() == []


def test_a_worn_process_is_replaced_between_episodes() -> None:
    with make_simulator(limits=RecycleLimits(episodes=2)) as simulator:
        pids = []
        for seed in range(3):
            simulator.reset("fine", "clean", seed)
            pids.append(simulator.pid)
    assert pids[0] == pids[1] != pids[2]
    with make_simulator(limits=RecycleLimits(rss_bytes=1)) as simulator:
        simulator.reset("fine", "clean", 0)
        first = simulator.pid
        assert simulator.rss_bytes() > 1 << 20
        simulator.reset("fine", "clean", 1)
        assert simulator.pid != first


def test_no_orphan_survives_a_killed_owner() -> None:
    script = f"""
        import time
        from envs.process.owner import SimulatorProcess
        from envs.simulator import SimulatorSpec
        simulator = SimulatorProcess(SimulatorSpec({FACTORY!r}))
        simulator.reset("hang", "clean", 0)
        simulator.start_chunk([[0.0] * 14])
        print(simulator.pid, flush=True)
        time.sleep(3600)
    """
    owner = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    worker = psutil.Process(int(owner.stdout.readline()))
    owner.kill()
    owner.wait()
    owner.stdout.close()
    psutil.wait_procs([worker], timeout=5)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_specs_and_faults_travel_between_processes() -> None:
    spec = SimulatorSpec(FACTORY, {"image_size": 4})
    assert pickle.loads(pickle.dumps(spec)) == spec  # noqa: S301  our own object
    fault = pickle.loads(pickle.dumps(SimulatorFault(Outcome.timeout, "late")))  # noqa: S301
    assert (fault.outcome, str(fault)) == (Outcome.timeout, "late")
    with pytest.raises(ValueError, match="module:callable"):
        SimulatorSpec("tests.envs.misbehaving")


def test_messages_carry_any_array_and_refuse_garbage() -> None:
    arrays: dict[str, np.ndarray] = {
        "odd": np.arange(7, dtype=np.uint8),
        "empty": np.zeros((0, 3), np.float64),
        "scalar": np.array(2.5),
        "strided": np.arange(12, dtype=np.int32).reshape(3, 4)[:, ::2],
    }
    ours, theirs = socket.socketpair()
    with ours, theirs:
        protocol.send(ours, protocol.Message({"verb": "x"}, arrays))
        received = protocol.receive(theirs)
        assert received.header["verb"] == "x"
        for name, array in arrays.items():
            np.testing.assert_array_equal(received.arrays[name], array)
            assert received.arrays[name].dtype == array.dtype
        with pytest.raises(protocol.ProtocolError, match="dtype object"):
            protocol.send(ours, protocol.Message({}, {"bad": np.array([{}])}))
        with pytest.raises(TimeoutError):
            protocol.receive(theirs, time.monotonic())
        ours.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with pytest.raises(protocol.ProtocolError, match="not a simulator message"):
            protocol.receive(theirs)

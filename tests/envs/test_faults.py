"""Simulators that misbehave: exact counts whatever happens, no trusted wrecks, no orphans, no leaks."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from configs.schema import EnvConfig
from envs.ledger import Cell, Ledger
from envs.outcomes import Outcome
from envs.process.owner import Deadlines, RecycleLimits, SimulatorFault, SimulatorProcess
from envs.simulator import SimulatorSpec, simulator_spec
from envs.tabletop.tasks import TASK_NAMES
from tests.envs import playing
from tests.envs.test_process import CHUNK, PATIENT, SHORT, assert_recovers, make_simulator, workers

MEBIBYTE = 1 << 20
FAULTS = ("raise", "hang", "segfault", "os_exit", "nan")


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[SimulatorProcess]:
    with make_simulator(tmp_path) as simulator:
        yield simulator
    assert workers() == []


@pytest.mark.parametrize("way", FAULTS)
def test_a_demonstration_that_goes_wrong_is_a_fault(simulator: SimulatorProcess, way: str) -> None:
    simulator.reset("fine", "clean", 0)
    simulator.deadlines = SHORT if way == "hang" else PATIENT
    with pytest.raises(SimulatorFault, match=f"^demonstrate of {way}/clean seed 3: ") as caught:
        simulator.demonstrate(way, "clean", 3)
    assert caught.value.outcome is (Outcome.timeout if way == "hang" else Outcome.sim_fault)
    assert_recovers(simulator)


@pytest.mark.parametrize("task", ["reset-raise", "nan"])
def test_a_process_whose_simulator_went_wrong_is_replaced(simulator: SimulatorProcess, task: str) -> None:
    simulator.reset("fine", "clean", 0)
    before = simulator.pid
    with pytest.raises(SimulatorFault):
        simulator.reset(task, "clean", 0)
        simulator.step_chunk(CHUNK)
    assert simulator.pid is None
    assert workers() == []
    assert_recovers(simulator)
    assert simulator.pid != before


def test_a_seed_without_an_episode_costs_no_process(simulator: SimulatorProcess) -> None:
    simulator.reset("fine", "clean", 0)
    before = simulator.pid
    with pytest.raises(SimulatorFault, match="no pose fits"):
        simulator.reset("reset-infeasible", "clean", 0)
    assert_recovers(simulator)
    assert simulator.pid == before


def test_what_a_simulator_started_dies_with_it(simulator: SimulatorProcess) -> None:
    simulator.reset("spawn_and_die", "clean", 0)
    with pytest.raises(SimulatorFault, match="SIGKILL") as caught:
        simulator.step_chunk(CHUNK)
    left_behind = re.search(r"left behind: (\d+)", str(caught.value))
    assert left_behind is not None
    pid = int(left_behind[1])
    if psutil.pid_exists(pid):
        psutil.wait_procs([psutil.Process(pid)], timeout=5)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def play(cells: list[Cell], scratch: Path, processes: int) -> Ledger:
    """Plays every cell as an evaluation does: a chunk is the whole episode."""
    scratch.mkdir()
    spec = SimulatorSpec("tests.envs.misbehaving:MisbehavingSimulator", {"scratch": str(scratch)})
    deadlines = Deadlines(hello=60.0, reset=5.0, step_chunk=1.5)
    return playing.play(Ledger(cells, retries=2), spec, deadlines, processes)


def test_every_seed_counts_once_whatever_goes_wrong_and_however_many_play(tmp_path: Path) -> None:
    """A passing fault costs one attempt; what comes out is the seed's."""
    passing = [f"once-{way}" for way in FAULTS]
    cells = [Cell(task, "clean", seed) for task in ("fine", *passing, "reset-infeasible") for seed in range(2)]
    results = []
    for processes in (1, 3):
        ledger = play(cells, tmp_path / str(processes), processes)
        entries = ledger.entries()
        assert list(entries) == cells
        assert Counter(entry.outcome for entry in entries.values()) == {"success": 12, "infeasible_seed": 2}
        attempts = {task: sum(entries[Cell(task, "clean", seed)].attempts for seed in range(2)) for task in passing}
        assert attempts == dict.fromkeys(passing, 3)
        results.append([(entry.outcome, entry.details) for entry in entries.values()])
    assert results[0] == results[1]
    assert workers() == []


# Leaks.


def growth(simulator: SimulatorProcess, tasks: tuple[str, ...], resets: int) -> tuple[float, int]:
    """Bytes of resident memory a reset, over the second half, and file descriptors gained in that half."""
    memory, files = [], []
    for seed in range(resets):
        observation = simulator.reset(tasks[seed % len(tasks)], "randomized", seed).observation
        simulator.step_chunk(observation["joints"][None])
        memory.append(simulator.rss_bytes())
        files.append(psutil.Process(simulator.pid).num_fds())
    half = resets // 2
    return float(np.polyfit(range(resets - half), memory[half:], 1)[0]), files[-1] - files[half]


@pytest.mark.slow
def test_many_episodes_of_the_suite_take_no_more_memory_or_files() -> None:
    """In one process, so in fewer episodes than a process is replaced after: its successor would hide what leaked."""
    kwargs = {"head_size": 64, "wrist_size": 32, "control_hz": 10, "render": False}
    with SimulatorProcess(SimulatorSpec("envs.tabletop.simulator:TabletopSimulator", kwargs)) as simulator:
        simulator.reset(TASK_NAMES[0], "clean", 0)
        first = simulator.pid
        memory, files = growth(simulator, TASK_NAMES, 400)
        assert simulator.pid == first
    assert memory < MEBIBYTE / 64
    assert files == 0


def test_a_leak_shows_and_stays_within_the_limit(simulator: SimulatorProcess) -> None:
    simulator.reset("fine", "clean", 0)
    base = simulator.rss_bytes()
    memory, _ = growth(simulator, ("leak",), 20)
    assert memory == pytest.approx(MEBIBYTE, rel=0.3)
    simulator.kill()
    simulator.limits = RecycleLimits(rss_bytes=base + 10 * MEBIBYTE)
    pids = set()
    for seed in range(40):
        simulator.reset("leak", "clean", seed)
        pids.add(simulator.pid)
        assert simulator.rss_bytes() < simulator.limits.rss_bytes + 4 * MEBIBYTE
    assert 3 <= len(pids) <= 8


def test_the_owner_keeps_nothing_of_dead_simulators(tmp_path: Path) -> None:
    me, seen = psutil.Process(), []
    for task in ("segfault", "raise", "hang", "os_exit", "nan", "fine"):
        with make_simulator(tmp_path) as simulator:
            simulator.reset(task, "clean", 0)
            simulator.deadlines = SHORT if task == "hang" else PATIENT
            if task != "fine":
                with pytest.raises(SimulatorFault):
                    simulator.step_chunk(CHUNK)
        assert workers() == []
        seen.append((me.num_fds(), me.num_threads()))
    assert len(set(seen)) == 1


def test_the_limits_come_from_the_configuration() -> None:
    env = EnvConfig(recycle_episodes=7, recycle_rss_mib=600, chunk_deadline_s=3.0)
    simulator = SimulatorProcess.from_config(simulator_spec(env), env)
    assert simulator.limits == RecycleLimits(7, 600 * MEBIBYTE)
    assert simulator.deadlines.step_chunk == 3.0


def test_a_limit_that_no_simulator_keeps_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with make_simulator(limits=RecycleLimits(rss_bytes=1)) as simulator, caplog.at_level(logging.WARNING):
        simulator.reset("fine", "clean", 0)
        assert caplog.text == ""
        simulator.reset("fine", "clean", 1)
    assert "Raise env.recycle_rss_mib" in caplog.text

"""Jobs on a Ray cluster, whose driver and runners are all there. This machine only sends the code and shows the output.

`python -m launch.job submit ADDRESS=http://head:8265 SHARED=/mnt/wam train configs/sants.yaml [key=value ...]`
`python -m launch.job status|stop|logs ADDRESS=http://head:8265 [JOB=<id>]`
`python -m launch.job token [<file>]`

submit  starts the verb (train, evaluate, collect, returns, pretrain, value or embed) on the cluster and shows its
        output. Relative paths are put below SHARED, a folder that every node sees. The exit code is that of the verb;
        130 means that the same command goes on from the last checkpoint. If the run is at work already, its output is
        shown. Ctrl-C ends the output, not the job. CARRY=<entry>,... sends further entries of this folder too.
status  lists the jobs. stop asks one to save and end. logs shows the output of one. Without JOB it is the newest.
token   makes the token of a cluster, readable by you alone. Its file belongs on every node and every client.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from configs.fetched import is_uri
from configs.fields import ConfigError, Problem, lies_in, paths
from envs.findings import Finding, Status
from launch.shell.console import EXIT_FAILED, EXIT_USAGE, PlainConsole, console
from launch.shell.environment import set_environment
from launch.shell.interrupts import EXIT_INTERRUPTED, signals_interrupt
from rl.engine.tokens import require_token, token_file, write_token

if TYPE_CHECKING:
    from configs.schema import Config
    from rl.engine.jobs import Job, Jobs

REPOSITORY = Path(__file__).resolve().parents[1]
ADDRESS = "http://127.0.0.1:8265"  # what a tunnel to the head is usually bound to
VERBS = ("train", "evaluate", "collect", "returns", "pretrain", "value", "embed")
CODE = ("configs", "envs", "policies", "rl", "launch")  # paths into these travel with the code
OWN_SECTIONS = ("convert", "bench", "pretrain", "value", "embed")  # of the verb with this name alone
ON_DISK = ("run.resume", "run.start_from")  # keys whose folder is looked for when settings are read
NAMES = ("ADDRESS", "SHARED", "CARRY", "JOB")
STOP_WAIT_S = 90.0
SIGNALS_FROM = 128  # a shell, which starts the command of a job, adds this to the number of the signal that ended it
errors = PlainConsole(stderr=True, soft_wrap=True)


@dataclass(frozen=True)
class Call:
    """A command line: what to do, `NAME=value` of `NAMES`, and the rest."""

    action: str
    named: dict[str, str]
    rest: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    call = split(argv)
    if call.action not in ACTIONS or "--help" in argv:
        console.print(__doc__)
        return 0 if "--help" in argv else EXIT_USAGE
    return guarded(lambda: ACTIONS[call.action](call))


def guarded(act: Callable[[], int]) -> int:
    """Return the exit code of `act`, which talks to a cluster. What goes wrong is told in one message."""
    set_environment()
    try:
        with signals_interrupt():
            return act()
    except ConfigError as error:
        errors.print(f"Nothing was done.\n{error}")
        return EXIT_USAGE
    except (OSError, RuntimeError) as error:  # no answer, no token, a file, or the job server's own words
        errors.print(str(error))
        return EXIT_FAILED
    except KeyboardInterrupt:
        errors.print("\nThe job goes on. `make logs` shows its output again, `make stop` ends it.")
        return EXIT_INTERRUPTED


def split(argv: Sequence[str]) -> Call:
    """Split a command line into its parts."""
    named = dict(argument.split("=", 1) for argument in argv if argument.partition("=")[0] in NAMES)
    rest = [argument for argument in argv if argument.partition("=")[0] not in NAMES]
    return Call(rest[0] if rest else "", {name: value for name, value in named.items() if value}, rest[1:])


def submit(call: Call) -> int:
    """Submit a job, or find the one that is at work on the same run, and show its output until it ends."""
    verb, arguments = (call.rest[0], call.rest[1:]) if call.rest else ("", [])
    if verb not in VERBS:
        raise ConfigError([Problem(verb or "the verb", "is not known", f"Use one of: {', '.join(VERBS)}.")])
    config = settings_of(arguments)
    moved, run = below_shared(config, verb, call.named.get("SHARED", ""))
    further = carried(call.named.get("CARRY", ""))
    jobs = connect(call)
    from rl.engine.jobs import CARRIED

    at_work = jobs.of_run(run)
    if at_work is not None:
        console.print(f"{run} is at work already, as job {at_work.id}. Its output:")
        return follow(jobs, at_work.id)
    command = shlex.join(["python", "-m", f"launch.{verb}", *arguments, *moved])
    identity = jobs.submit(command, run, REPOSITORY, [*CARRIED, *further])
    console.print(f"job {identity}: {command}", soft_wrap=True)
    return follow(jobs, identity)


def carried(names: str) -> list[str]:
    """Return the entries of this project's folder that `CARRY` names. Raises `ConfigError` if one is no such entry."""
    wanted = [name.rstrip("/") for name in names.split(",") if name]
    here = {entry.name for entry in REPOSITORY.iterdir()}
    wrong = [name for name in wanted if name not in here or name.startswith(".")]
    if wrong:
        fix = "Name its folders and files that are not hidden; each travels whole."
        raise ConfigError([Problem("CARRY", f"{name} is no such entry of {REPOSITORY}", fix) for name in wrong])
    return wanted


def settings_of(arguments: Sequence[str]) -> Config:
    """Return the settings of a command line. What must exist on disk need not exist on this machine."""
    from launch.shell.cli import parse, resolve  # torch defines settings, and the other actions need none

    parsed = parse(arguments, {})
    here = {key: text for key, text in parsed.overrides.items() if key not in ON_DISK}
    config = resolve(replace(parsed, overrides=here))
    for key, (section, name) in ((key, key.split(".")) for key in ON_DISK if key in parsed.overrides):
        setattr(getattr(config, section), name, parsed.overrides[key])
    return config


def below_shared(config: Config, verb: str, shared: str) -> tuple[list[str], str]:
    """Return `key=value` for each relative path, put below `shared`, and the directory of the run.

    A job's own folder ends with it, and exists on other nodes only as a copy. Raises `ConfigError` where there is a
    relative path and no shared folder.
    """
    from policies.backbones import unread_settings

    if shared and not Path(shared).is_absolute():
        raise ConfigError([Problem("SHARED", f"{shared} is relative", "Write the whole path.")])
    skipped = [section for section in OWN_SECTIONS if section != verb]
    skipped += [f"wam.{name}" for name in unread_settings(config.wam)]
    relative = {
        key: value
        for key, value in paths(config)
        if not Path(value).is_absolute()
        and not is_uri(value)
        and Path(value).parts[:1] not in [(name,) for name in CODE]
        and not (key == "run.resume" and value in ("auto", "never"))
        and not lies_in(key, skipped)
    }
    if relative and not shared:
        fix = "Add SHARED=/a/folder/that/every/node/sees, or write the whole path."
        raise ConfigError(
            [Problem(key, f"{value} is relative, and would end with the job", fix) for key, value in relative.items()]
        )
    moved = {key: str(Path(shared, value)) for key, value in relative.items()}
    root = config.run.root
    run = f"{root.rstrip('/')}/{config.run.name}" if is_uri(root) else str(Path(shared, root, config.run.name))
    return [f"{key}={value}" for key, value in moved.items()], run


def connect(call: Call) -> Jobs:
    """Return the cluster's jobs, as a client that shows the token."""
    address = call.named.get("ADDRESS", ADDRESS)
    if not address.startswith(("http://", "https://")):
        raise ConfigError([Problem("ADDRESS", f"{address} is no address of a job server", f"Write it as {ADDRESS}.")])
    require_token()
    from rl.engine.jobs import Jobs

    return Jobs(address)


def connect_alone(call: Call) -> Jobs:
    """Return the cluster's jobs for an action that takes no arguments. Raises `ConfigError` if there is one."""
    refuse(call.rest, f"Use {', '.join(NAMES)}, as in JOB=<id>.")
    return connect(call)


def refuse(arguments: Sequence[str], fix: str) -> None:
    """Raise `ConfigError` if there are such arguments: without it a misspelt name would mean the newest job."""
    if arguments:
        raise ConfigError([Problem(argument, "is not known here", fix) for argument in arguments])


def follow(jobs: Jobs, identity: str) -> int:
    """Show what a job prints until it ends. Returns its exit code, and that of a lost job if its head is lost."""

    async def show() -> None:
        async for text in jobs.follow(identity):
            console.print(text, end="", soft_wrap=True)

    try:
        asyncio.run(show())
        job = jobs.find(identity)
    except OSError as error:
        errors.print(f"{error}\nIf the head is gone, so is the job: submit again, and it goes on from its checkpoint.")
        return EXIT_INTERRUPTED
    if job is None or job.lost:
        errors.print(f"job {identity} was stopped or lost. The same command goes on from its last checkpoint.")
        return EXIT_INTERRUPTED
    if job.exit_code is None and job.status != "SUCCEEDED":
        errors.print(f"job {identity} did not start: {job.message}")
    return exit_code(job)


def exit_code(job: Job) -> int:
    """Return the exit code of a job's command, or `EXIT_INTERRUPTED` if a signal ended it."""
    if job.exit_code is None:
        return 0 if job.status == "SUCCEEDED" else EXIT_FAILED
    by_signal = job.exit_code < 0 or job.exit_code > SIGNALS_FROM
    return EXIT_INTERRUPTED if by_signal else job.exit_code


def ask_nodes(call: Call) -> list[Finding]:
    """Look at every node by a job, whose output is the findings. Raises RuntimeError if the job fails."""
    from launch.machine.nodes import MARK

    paths_there = [f"{call.named['SHARED'].rstrip('/')}/"] if "SHARED" in call.named else []
    paths_there += call.rest
    refuse([path for path in paths_there if not Path(path).is_absolute()], "Write whole paths that every node has.")
    jobs = connect(call)
    command = shlex.join(["python", "-m", "launch.machine.nodes", *paths_there])
    identity = jobs.submit(command, "doctor", REPOSITORY)

    async def collect() -> str:
        return "".join([text async for text in jobs.follow(identity)])

    said = asyncio.run(collect())
    marked = [line.removeprefix(MARK) for line in said.splitlines() if line.startswith(MARK)]
    if not marked:
        return [Finding("cluster", Status.missing, said.strip() or "the job did not start", "make logs")]
    return [Finding(**{**one, "status": Status(one["status"])}) for one in json.loads(marked[-1])]


def status(call: Call) -> int:
    """List the jobs, the newest first."""
    table = Table("job", "status", "exit code", "started", "run", box=None, pad_edge=False)
    for job in connect_alone(call).all():
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.started)) if job.started else "waits"
        table.add_row(job.id, job.status, "" if job.exit_code is None else str(job.exit_code), started, job.run)
    console.print(table if table.row_count else "There are no jobs.")
    return 0


def stop(call: Call) -> int:
    """Ask a job to save and end, and wait until it has ended."""
    jobs = connect_alone(call)
    job = chosen(jobs, call)
    if job is None or not job.open:
        console.print("There is no such job." if job is None else f"job {job.id} has ended: {job.status}")
        return 0 if job else EXIT_FAILED
    jobs.stop(job.id)
    console.print(f"job {job.id}: asked to save and to end")
    deadline = time.monotonic() + STOP_WAIT_S
    while job is not None and job.open and time.monotonic() < deadline:
        time.sleep(0.5)
        job = jobs.find(job.id)
    ended = job is None or not job.open
    console.print("It has ended. Submit it again to go on." if ended else f"It has not ended after {STOP_WAIT_S:g} s.")
    return 0 if ended else EXIT_FAILED


def logs(call: Call) -> int:
    """Show the output of a job, and follow it until it ends if it is at work."""
    jobs = connect_alone(call)
    job = chosen(jobs, call)
    if job is None:
        console.print("There is no such job.")
        return EXIT_FAILED
    if job.open:
        return follow(jobs, job.id)
    console.print(jobs.log(job.id), soft_wrap=True)
    return 0


def chosen(jobs: Jobs, call: Call) -> Job | None:
    """Return the job that was named, else the newest one that is at work, else the newest one."""
    if "JOB" in call.named:
        return jobs.find(call.named["JOB"])
    return next((job for job in jobs.all() if job.open), jobs.find())


def token(call: Call) -> int:
    """Make a token, or keep the one that is there."""
    refuse(call.rest[1:], "Name one file.")
    path = Path(os.path.expanduser(call.rest[0])) if call.rest else token_file()
    console.print(f"{path}: {'made' if write_token(path) else 'kept'}, readable by its owner only")
    return 0


ACTIONS = {"submit": submit, "status": status, "stop": stop, "logs": logs, "token": token}

if __name__ == "__main__":
    sys.exit(main())

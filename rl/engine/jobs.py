"""Jobs on a Ray cluster, through Ray's own job server: submitted, followed, listed and stopped.

A job's working directory holds this project's code and nothing else: no data, runs, environments, tokens or `.git`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from ray.dashboard.modules.job.common import JobErrorType
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from rl.engine.tokens import MODE, TOKEN, TokenError, token_file

CARRIED = ("configs", "envs", "policies", "rl", "launch", "setup.cfg", "pyproject.toml")
NEVER_CARRIED = (".?*", "__pycache__", "*.pyc", "*auth_token*", "*.token", "*.pem", "*.key", "id_rsa*", "id_ed25519*")
RUN = "wam_run"  # the key in a job's metadata whose value is the directory of its run
_NOISY = ("ray._private.runtime_env", "ray.dashboard")
_FAILURES = (OSError, RuntimeError, RayError, aiohttp.ClientError)
"""What Ray's client raises where a head is gone, refuses the token or ends a connection. `requests` raises OSErrors."""
GRACE_S = 60
"""The seconds that a stopped job has to save. Ray's default of three is short for a slow file system."""
NOT_YET = "No available agent"  # what a head says that has only just started
ATTEMPTS = 12
PAUSE_S = 5.0
"""While a job is followed, a head that does not answer is asked so often, with so many seconds in between."""


class NoAnswerError(ConnectionError):
    """The job server does not answer."""


@dataclass(frozen=True)
class Job:
    """What is known of a submitted job."""

    id: str
    run: str
    status: str
    started: float  # seconds since 1970; 0 if it has not started
    exit_code: int | None  # of its command; None while it runs, or if its process was lost
    lost: bool  # it did not end by itself: its node died, or it was stopped
    message: str

    @property
    def open(self) -> bool:
        """Whether the job waits or runs."""
        return self.status in (JobStatus.PENDING, JobStatus.RUNNING)


class Jobs:
    """The jobs of this project on one cluster."""

    def __init__(self, address: str) -> None:
        """`address` is that of the head's dashboard, such as `http://127.0.0.1:8265`.

        Raises `NoAnswerError` if nothing answers there, and `TokenError` if the cluster has another token.
        """
        self._address = address
        try:
            self._client = JobSubmissionClient(address)
        except AuthenticationError as error:
            where = TOKEN if os.environ.get(TOKEN) else token_file()
            shown = f"{MODE}=disabled" if os.environ.get(MODE) == "disabled" else f"the token of {where}"
            fix = "Copy the token from the cluster's head."
            raise TokenError(f"The cluster at {address} does not take {shown}. {fix}") from error
        except (*_FAILURES, ValueError) as error:
            raise NoAnswerError(f"No job server answers at {address}: {error}") from error
        for name in _NOISY:
            logging.getLogger(name).setLevel(logging.ERROR)

    def submit(self, command: str, run: str, directory: Path, carried: Sequence[str] = CARRIED) -> str:
        """Start a command in a copy of the entries `carried` of `directory`, and return the job's id."""
        name = re.sub(r"[^A-Za-z0-9-]+", "-", Path(run).name).strip("-") or "run"
        identity = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        environment = job_environment(directory, carried)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._client.submit_job(
                    entrypoint=command, submission_id=identity, runtime_env=environment, metadata={RUN: run}
                )
                break
            except RuntimeError as error:
                if NOT_YET not in str(error) or attempt == ATTEMPTS:
                    raise
                time.sleep(PAUSE_S)
        return identity

    def find(self, identity: str = "") -> Job | None:
        """Return a job by its id, or the job that was submitted last; None if there is none."""
        if identity:
            return next((job for job in self.all() if job.id == identity), None)
        return next(iter(self.all()), None)

    def all(self) -> list[Job]:
        """Return the jobs of this project, those that started last first."""
        found = [_job(details) for details in self._client.list_jobs() if RUN in (details.metadata or {})]
        return sorted(found, key=lambda job: job.started or time.time(), reverse=True)

    def of_run(self, run: str) -> Job | None:
        """Return the job that waits or runs in the directory `run`, or None."""
        return next((job for job in self.all() if job.open and job.run == run), None)

    def stop(self, identity: str) -> None:
        """Send SIGTERM to a job, which saves and ends, and SIGKILL after `GRACE_S`."""
        self._client.stop_job(identity)

    def log(self, identity: str) -> str:
        """Return what a job has printed so far."""
        text: str = self._client.get_job_logs(identity)
        return text

    async def follow(self, identity: str) -> AsyncIterator[str]:
        """Yield what a job prints, from its beginning until it ends. Raises `NoAnswerError` if the head is gone."""
        shown, failures = 0, 0
        while True:
            passed = 0
            try:
                async for text in self._client.tail_job_logs(identity):
                    fresh = text[max(0, shown - passed) :]
                    passed += len(text)
                    if fresh:
                        shown, failures = passed, 0
                        yield fresh
                job = self.find(identity)
                if job is None or not job.open:
                    return
            except _FAILURES as error:
                failures += 1
                if failures > ATTEMPTS:
                    raise NoAnswerError(f"The head does not answer any more: {error}") from error
            await asyncio.sleep(PAUSE_S if failures else 1.0)


def job_environment(directory: Path, carried: Sequence[str] = CARRIED) -> dict[str, Any]:
    """Return the runtime environment of a job. Everyone who reaches the cluster can read it, so it holds no secret."""
    others = sorted(f"/{_escaped(entry.name)}" for entry in directory.iterdir() if entry.name not in carried)
    return {
        "working_dir": str(directory),
        "excludes": [*NEVER_CARRIED, *others],
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(GRACE_S), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
    }


def _escaped(name: str) -> str:
    """Return a name in which the letters that mean something in a `.gitignore` mean themselves."""
    return re.sub(r"([*?\[\]\\!# ])", r"\\\1", name)


def _job(details: JobDetails) -> Job:
    return Job(
        details.submission_id or "",
        (details.metadata or {})[RUN],
        str(details.status.value),
        (details.start_time or 0) / 1000,
        details.driver_exit_code,
        details.status is JobStatus.STOPPED or details.error_type == JobErrorType.JOB_SUPERVISOR_ACTOR_DIED.value,
        (details.message or "").partition("\n")[0],
    )

"""What a job carries and where its files go, without a cluster; tests/rl/test_cluster_jobs.py has the cluster."""

from __future__ import annotations

import stat
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from configs.fields import ConfigError
from configs.schema import Config
from launch import doctor, job
from rl.engine.jobs import CARRIED, Job, job_environment
from rl.engine.tokens import TokenError, require_token, write_token

FOLDERS_OF_A_USER = ("data", "runs", ".venv", ".git", "secrets", "my plans [1]")


def config_of(*arguments: str) -> Config:
    return job.settings_of(["configs/sants.yaml", *arguments])


def job_that(status: str, code: int | None, lost: bool = False) -> Job:
    return Job("sants-1", "/mnt/runs/sants", status, 1.0, code, lost, "")


def test_relative_paths_are_put_below_the_shared_folder_and_those_of_the_code_are_not() -> None:
    moved, run = job.below_shared(
        config_of("run.inherit=runs/other", "run.start_from=/abs", "run.resume=auto"), "train", "/mnt/wam"
    )
    assert set(moved) == {
        "run.root=/mnt/wam/runs",
        "run.inherit=/mnt/wam/runs/other",
        "demonstrations.root=/mnt/wam/data/demonstrations",
    }
    assert run == "/mnt/wam/runs/sants"
    moved, run = job.below_shared(config_of("run.root=/a", "demonstrations.root=/b", "run.quick=true"), "train", "")
    assert (moved, run) == ([], "/a/sants-quick")


def test_without_a_shared_folder_every_relative_path_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        job.below_shared(config_of(), "train", "")
    assert [problem.key for problem in caught.value.problems] == ["run.root", "demonstrations.root"]
    with pytest.raises(ConfigError, match="relative"):
        job.below_shared(config_of(), "train", "mnt")


@pytest.mark.parametrize(
    ("done", "code"),
    [
        (job_that("SUCCEEDED", 0), 0),
        (job_that("FAILED", 2), 2),
        (job_that("FAILED", 130), 130),
        (job_that("FAILED", -9), 130),
        (job_that("FAILED", 137), 130),
        (job_that("FAILED", None), 1),
    ],
)
def test_the_exit_code_is_that_of_the_command(done: Job, code: int) -> None:
    assert job.exit_code(done) == code


def test_what_asks_for_no_settings_does_not_wait_for_torch() -> None:
    """`make status`, `make stop` and `make logs` only talk to the head."""
    code = "import sys, launch.job; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=job.REPOSITORY, check=True)


def test_a_wrong_call_ends_with_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert job.main(["sumbit"]) == 2
    assert job.main(["submit", "trian", "configs/sants.yaml"]) == 2
    assert job.main(["submit", "SHARED=/mnt", "train", "run.nmae=x"]) == 2
    assert "Did you mean run.name?" in capsys.readouterr().err


def test_a_token_that_cannot_be_written_is_one_message_and_a_folder_keeps_its_mode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o755)
    assert job.main(["token", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["status", "ADRESS=http://127.0.0.1:1"], "ADRESS=http://127.0.0.1:1"),
        (["stop", "sants-1"], "sants-1"),
        (["logs", "JOBS=sants-1"], "JOBS=sants-1"),
        (["status", "ADDRESS=127.0.0.1:1"], "ADDRESS"),
        (["token", "one", "another"], "another"),
        (["submit", "SHARED=/mnt", "CARRY=nothing/,tests/,tests/launch,.git", "train", "configs/sants.yaml"], "CARRY"),
    ],
)
def test_what_is_misspelt_is_refused_before_anything_is_asked(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else `stop` would end another job, and a folder of the user would be missing on the cluster."""
    monkeypatch.setattr(job, "require_token", lambda: pytest.fail("the cluster would have been asked"))
    assert job.main(arguments) == 2
    assert f"{named}: " in capsys.readouterr().err


def test_a_folder_may_be_named_with_a_slash_at_its_end() -> None:
    assert job.carried("tests/,docs") == ["tests", "docs"]


def test_the_doctor_of_a_cluster_takes_whole_paths_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["cluster", "data/weights", "ADRESS=http://127.0.0.1:1"]) == 2
    said = capsys.readouterr().err
    assert "data/weights: is not known here" in said
    assert "ADRESS" in said


def test_only_a_head_that_is_lost_while_its_job_is_followed_means_resume(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that submits again after 130 would never end where the address is wrong."""
    from rl.engine.jobs import Jobs, NoAnswerError

    class Lost(Jobs):
        def __init__(self) -> None:
            pass

        async def follow(self, identity: str) -> AsyncIterator[str]:
            yield "iteration 1\n"
            raise NoAnswerError("The head does not answer any more")

    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    submit = ["submit", "ADDRESS=http://127.0.0.1:1", "SHARED=/mnt", "train", "configs/sants.yaml"]
    assert job.main(submit) == 1
    assert "No job server answers at http://127.0.0.1:1" in capsys.readouterr().err
    assert job.follow(Lost(), "sants-1") == 130
    assert "submit again" in capsys.readouterr().err


def test_a_job_carries_the_code_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is made by Ray itself."""
    from ray._private.runtime_env.packaging import create_package

    monkeypatch.setenv("RAY_AUTH_TOKEN", "very-secret")
    root = tmp_path / "project"
    for folder in ("launch", "rl/engine", "launch/__pycache__", "launch/.hidden", *FOLDERS_OF_A_USER):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "file.py").write_text("1")
    for name in ("setup.cfg", ".ray_token", "auth_token", "notes.txt", "rl/auth_token", "rl/id_rsa", "rl/a.pem"):
        (root / name).write_text("secret")
    environment = job_environment(root)
    package = tmp_path / "package.zip"
    create_package(str(root), package, include_gitignore=True, excludes=environment["excludes"])
    files = {name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")}
    assert files == {"launch/file.py", "rl/engine/file.py", "setup.cfg"}
    assert "very-secret" not in str(environment)
    assert set(CARRIED) >= set(job.CODE)


def test_a_token_is_made_for_its_owner_alone_and_required(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder" / "token"
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    with pytest.raises(TokenError, match="There is no token at"):
        require_token()
    assert job.main(["status"]) == 1
    assert "There is no token at" in capsys.readouterr().err
    assert job.main(["token"]) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    require_token()
    monkeypatch.setenv("RAY_AUTH_MODE", "tokn")
    with pytest.raises(TokenError, match="RAY_AUTH_MODE=tokn is not known"):
        require_token()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    made = path.read_text()
    path.chmod(0o644)
    with pytest.raises(TokenError, match="chmod 600"):
        require_token()
    assert not write_token(path)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (made, 0o600)
    path.write_text("\n")
    with pytest.raises(TokenError, match="is empty"):
        require_token()
    assert write_token(path)
    assert len(path.read_text()) == 64
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    require_token()

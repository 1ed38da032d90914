from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from configs.schema import EnvConfig, WAMConfig
from envs.findings import Finding, Status
from envs.process.owner import SimulatorUnavailable
from launch import doctor
from launch.machine import findings as machine

FINE = Finding("python", Status.ok, "3.11")
LIMIT = Finding("memory", Status.note, "2 GiB [of 10]", "buy some")
GONE = Finding("vulkan", Status.missing, "no driver", "make setup")


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    listed = [FINE, LIMIT]
    monkeypatch.setattr(doctor, "examine", lambda wam: listed)
    return listed


def test_notes_do_not_fail_and_what_is_missing_does(findings: list[Finding]) -> None:
    assert doctor.main([]) == 0
    findings.append(GONE)
    assert doctor.main([]) == 1


def test_the_table_gives_the_command_for_everything_that_is_not_right(
    findings: list[Finding], capsys: pytest.CaptureFixture[str]
) -> None:
    findings.append(GONE)
    doctor.main([])
    text = capsys.readouterr().out
    assert "buy some" in text
    assert "make setup" in text
    assert "[of 10]" in text


def test_json_carries_every_finding(findings: list[Finding], capsys: pytest.CaptureFixture[str]) -> None:
    findings.append(GONE)
    assert doctor.main(["--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert [entry["status"] for entry in printed] == ["ok", "note", "missing"]
    assert printed[2]["fix"] == "make setup"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--jsno", "--jsno: is no option. Did you mean --json?"),
        ("run.nmae=x", "run.nmae: is no key. Did you mean run.name?"),
        ("run.iterations=many", "run.iterations"),
        ("robotwni", "robotwni: does not exist"),
    ],
)
def test_an_argument_that_fits_nowhere_is_named(
    argument: str, message: str, findings: list[Finding], capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main([argument]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["configs/sants.yaml"], ["run.name=x"], ["configs/noisegate.yaml", "--json"]])
def test_the_arguments_of_every_other_verb_are_accepted(arguments: list[str], findings: list[Finding]) -> None:
    assert doctor.main(arguments) == 0


def test_the_backbone_examined_is_the_configured_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda wam: [machine.probe_backbone(wam)])
    assert doctor.main(["configs/sants.yaml"]) == 0
    assert doctor.main(["configs/sants.yaml", f"wam.checkpoint={tmp_path}"]) == 1


def test_packages_that_are_not_as_pinned_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.pinned_packages()["numpy"] == "1.26.4"
    assert machine.probe_packages().status is Status.ok
    monkeypatch.setattr(
        machine, "version", lambda name: "26.0.1" if name == "pyarrow" else machine.pinned_packages()[name]
    )
    finding = machine.probe_packages()
    assert finding.status is Status.missing
    assert finding.detail == "not as pinned: pyarrow 26.0.1"


def test_local_builds_of_a_pinned_version_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "version", lambda name: machine.pinned_packages()[name] + "+cpu")
    assert machine.probe_packages().status is Status.ok


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("pyarrow requires NumPy 2.0 or newer", "pyarrow and numpy do not fit"),
        ("Can't import ray.tune; pip install ray[tune]", "pyarrow and numpy do not fit"),
        ("No module named 'ray'", "No module named 'ray'"),
    ],
)
def test_rays_misleading_error_is_translated(monkeypatch: pytest.MonkeyPatch, error: str, expected: str) -> None:
    monkeypatch.setattr(machine, "_run_probe", lambda code: (1, "", error))
    finding = machine.probe_ray()
    assert finding.status is Status.missing
    assert expected in finding.detail


def test_vulkans_failures_keep_their_own_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_run_probe", lambda code: (1, "", "NoVulkanDevice: lavapipe 22.3 is too old"))
    assert "too old" in machine.probe_vulkan().detail
    monkeypatch.setattr(machine, "_run_probe", lambda code: (1, "", "ImportError: libX11.so.6: cannot open"))
    assert "libx11-6" in machine.probe_vulkan().fix


def test_a_probe_survives_a_crash_of_what_it_probes() -> None:
    code, output, error = machine._run_probe("import os; os.abort()")
    assert (code != 0, output) == (True, "")
    assert error


def test_a_readable_ray_token_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    assert machine.probe_ray_token().fix == f"chmod 600 {token}"
    token.chmod(0o600)
    assert machine.probe_ray_token().status is Status.ok


def test_a_missing_or_damaged_backbone_is_missing(tmp_path: Path) -> None:
    shipped = Path(WAMConfig().checkpoint)
    copy = WAMConfig(checkpoint=str(tmp_path / "copy"))
    assert machine.probe_backbone(copy).status is Status.missing
    shutil.copytree(machine.REPOSITORY / shipped, copy.checkpoint)
    assert machine.probe_backbone(copy).detail == f"{copy.checkpoint}, hash 3fc1c064101c81d0"
    (Path(copy.checkpoint) / "vae.safetensors").write_bytes(b"0" * 2**20)
    assert "vae.safetensors is truncated or was changed" in machine.probe_backbone(copy).detail
    assert machine.probe_backbone(WAMConfig(checkpoint="", backbone="tests.analytic")).ok


def test_a_renderer_is_required_of_the_built_in_simulator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "probe_vulkan", lambda: GONE)
    with pytest.raises(SimulatorUnavailable, match=r"no driver .*make doctor"):
        machine.require_renderer(EnvConfig())
    machine.require_renderer(EnvConfig(simulator="tests.toy_simulator:toy_spec"))
    machine.require_renderer(EnvConfig(suite="robotwin"))
    monkeypatch.setattr(machine, "probe_vulkan", lambda: FINE)
    machine.require_renderer(EnvConfig())

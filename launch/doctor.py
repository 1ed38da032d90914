"""What this machine can do and, for what is missing, the command that fixes it.

`python -m launch.doctor [<suite>] [configs/<recipe>.yaml] [key=value ...] [--json]`

`python -m launch.doctor cluster ADDRESS=http://head:8265 [SHARED=/mnt/wam] [<path> ...]` looks at every node of a Ray
cluster, and whether it sees these folders and files.

`python -m launch.doctor backbone [wam.backbone=<key> wam.checkpoint=<path>]` looks at the published backbones.

A suite that has findings of its own, such as robotwin, shows those of what it needs instead.

Exit code 1 where something needed is missing. `python -m launch.train --help` lists the keys.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from configs.fields import ConfigError
from envs.findings import Finding, Status
from envs.simulator import known_suites
from envs.suites import suite_findings, training_roles
from launch.machine.findings import examine
from launch.shell.cli import parse, resolve
from launch.shell.console import EXIT_USAGE, PlainConsole, console
from launch.shell.environment import set_environment

OPTIONS = {
    "--help": "this text",
    "--dry-run": "look at nothing",
    "--json": "findings as JSON instead of a table",
}
STYLES = {Status.ok: "green", Status.note: "yellow", Status.missing: "bold red"}


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["cluster"] and "--help" not in argv:
        return cluster(argv)
    backbones = argv[:1] == ["backbone"]
    suites, argv = known_suites(), argv[1:] if backbones else argv
    arguments = parse([f"env.suite={argument}" if argument in suites else argument for argument in argv], OPTIONS)
    if "--help" in arguments.flags:
        console.print(__doc__)
        return 0
    try:
        config = resolve(arguments, every_backbone=backbones)
    except (ConfigError, OSError) as error:
        PlainConsole(stderr=True, soft_wrap=True).print(str(error))
        return EXIT_USAGE
    if "--dry-run" in arguments.flags:
        console.print("The doctor only looks: it changes nothing.")
        return 0
    set_environment()
    as_json = "--json" in arguments.flags
    if backbones:
        from launch.machine.backbones import examine_backbones  # it builds networks, without memory for their numbers

        return tell(examine_backbones(config.wam), as_json)
    return tell(suite_findings(config, training_roles(config)) or examine(config.wam), as_json)


def cluster(argv: Sequence[str]) -> int:
    """Look at every node of a cluster, by a job on it."""
    from launch import job

    argv = list(argv)
    as_json = "--json" in argv
    return job.guarded(lambda: tell(job.ask_nodes(job.split([one for one in argv if one != "--json"])), as_json))


def tell(findings: Sequence[Finding], as_json: bool) -> int:
    """Print the findings. Returns the exit code."""
    if as_json:
        console.print(json.dumps([asdict(finding) for finding in findings], indent=1), soft_wrap=True)
    else:
        show(findings)
    return 0 if all(finding.ok for finding in findings) else 1


def show(findings: Sequence[Finding]) -> None:
    """Print the findings as a table, and below it the command for each that is not right."""
    table = Table("", "what", "found", box=None, pad_edge=False)
    for finding in findings:
        table.add_row(Text(finding.status, STYLES[finding.status]), finding.name, finding.detail)
    console.print(table)
    fixes = [finding for finding in findings if finding.fix and finding.status is not Status.ok]
    for finding in fixes:
        console.print(Text.assemble("\n", (finding.name, STYLES[finding.status]), ": run"))
        console.print(f"  {finding.fix}", soft_wrap=True)
    if not fixes:
        console.print("\nNothing is missing.")


if __name__ == "__main__":
    sys.exit(main())

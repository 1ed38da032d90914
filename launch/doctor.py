"""What this machine can do and, for what is missing, the command that fixes it.

`python -m launch.doctor [--json]`: exit code 1 where something needed is missing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from launch.machine import Finding, Status, examine

STYLES = {Status.ok: "green", Status.note: "yellow", Status.missing: "bold red"}


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    console = Console(highlight=False)
    unknown = set(argv) - {"--json", "--help", "-h", "--dry-run"}
    if unknown or {"--help", "-h"} & set(argv):
        console.print(__doc__, markup=False)
        return 2 if unknown else 0
    if "--dry-run" in argv:
        console.print("The doctor only looks: it changes nothing.")
        return 0
    findings = examine()
    if "--json" in argv:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=1) + "\n")
    else:
        show(findings, console)
    return 0 if all(finding.ok for finding in findings) else 1


def show(findings: Sequence[Finding], console: Console) -> None:
    table = Table("", "what", "found", box=None, pad_edge=False)
    for finding in findings:
        table.add_row(f"[{STYLES[finding.status]}]{finding.status}[/]", finding.name, _plain(finding.detail))
    console.print(table)
    fixes = [finding for finding in findings if finding.fix and finding.status is not Status.ok]
    for finding in fixes:
        console.print(f"\n[{STYLES[finding.status]}]{finding.name}[/]: run")
        console.print(f"  {finding.fix}", markup=False, soft_wrap=True)
    if not fixes:
        console.print("\nNothing is missing.")


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


if __name__ == "__main__":
    sys.exit(main())

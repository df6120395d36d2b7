"""`doctor`: what is wrong with this machine and this configuration, and what to do about it."""

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from dicom_node.cli.common import ConfigOption, JsonOption, err, out
from dicom_node.errors import ExitCode
from dicom_node.settings import load_settings

if TYPE_CHECKING:
    from rich.table import Table

    from dicom_node.doctor import Finding

commands = typer.Typer()
COLOURS = {"failed": "red", "warning": "yellow", "passed": "green", "skipped": "dim"}


@commands.command()
def doctor(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check ports, disk, keys, clock, database, device, models and peers; exit code 1 where one failed."""
    from dicom_node.doctor import Verdict, examine
    from dicom_node.observe.logging import configure
    from dicom_node.settings import LogSettings
    from dicom_node.supervisor import ports_of, running_node

    settings = load_settings(config)
    configure(LogSettings(level="ERROR"))
    ours = ports_of(running_node(settings.data_dir))
    with err.status("Looking…"):
        findings = list(examine(settings, ours))
    if as_json:
        out.print_json(
            json.dumps([asdict(one) | {"verdict": one.verdict.value} for one in findings])
        )
    else:
        out.print(_table(findings))
        counts = Counter(one.verdict.value for one in findings)
        out.print(", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items())))
    if any(one.verdict is Verdict.FAILED for one in findings):
        raise typer.Exit(int(ExitCode.FAILED))


def _table(findings: "list[Finding]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table("Check", "", "Found", "What to do")
    for one in findings:
        verdict = Text(one.verdict.value, style=COLOURS[one.verdict.value])
        table.add_row(one.id, verdict, Text(one.told), Text(one.hint))
    return table

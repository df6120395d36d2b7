"""De-identified copies of studies and results, for research: PS3.15 Annex E."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.common import ConfigOption, err, out
from dicom_node.errors import ConfigurationError, ExitCode
from dicom_node.settings import load_settings

commands = typer.Typer()

_DEFAULTS = ("clean-descriptors", "retain-modified-dates")


@commands.command()
def export(
    to: Annotated[Path, typer.Option("--to", help="An empty folder for the copies.")],
    studies: Annotated[
        list[str] | None,
        typer.Argument(help="Study Instance UIDs; or `-` to read them from standard input."),
    ] = None,
    project: Annotated[
        str, typer.Option(help="Whose key makes the pseudonyms; one for each recipient.")
    ] = "export",
    model: Annotated[
        str | None,
        typer.Option(help="Every study on which this model succeeded.", show_default=False),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="De-identify this folder instead of what the node received.",
            exists=True,
            file_okay=False,
            show_default=False,
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "-o",
            help="An option of PS3.15 E.3, repeated; `none` for the basic profile alone. "
            "clean-descriptors, retain-modified-dates, retain-full-dates, retain-patient-characteristics, "
            "retain-device, retain-institution, retain-uids, retain-safe-private. "
            f"Without any: {', '.join(_DEFAULTS)}.",
            show_default=False,
        ),
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            help="TOML: what each device burns into its pictures, and where.",
            exists=True,
            show_default=False,
        ),
    ] = None,
    results: Annotated[bool, typer.Option(help="The node's results too.")] = True,
    config: ConfigOption = None,
) -> None:
    """Write de-identified copies of studies and their results.

    The key and the table from pseudonyms to patients stay in the data folder, under `export`.
    """
    from dicom_node.exports import exported_cases, exported_folder
    from dicom_node.privacy.pictures import read_rules
    from dicom_node.privacy.rules import options_of

    settings = load_settings(config)
    chosen = options_of(() if option == ["none"] else tuple(option or _DEFAULTS))
    rules = read_rules(pictures)
    named = sys.stdin.read().split() if studies == ["-"] else list(studies or ())
    if folder is not None:
        report = exported_folder(settings, folder, to, project, chosen, rules)
    elif named or model:
        report = exported_cases(settings, named, model, to, project, chosen, rules, results)
    else:
        raise ConfigurationError("name studies, --model or --folder")
    out.print(f"{report.written} objects written to {to}", highlight=False)
    if report.blacked_out:
        out.print(f"{report.blacked_out} of them with regions blacked out", highlight=False)
    for why, count in report.refused.items():
        err.print(f"{count} not exported: {why}", markup=False, highlight=False, soft_wrap=True)
    if report.refused:
        raise typer.Exit(int(ExitCode.REFUSED))

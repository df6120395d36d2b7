"""What would become of files at the routes, without sending them."""

from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.common import ConfigOption, out
from dicom_node.errors import ExitCode
from dicom_node.settings import load_settings

commands = typer.Typer(help="Which series get which models, and why.", no_args_is_help=True)


@commands.command(name="test")
def try_files(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files or folders.", exists=True)],
    calling: Annotated[str, typer.Option(help="The AE title that would send them.")] = "SCANNER",
    config: ConfigOption = None,
) -> None:
    """Say which routes would take these files, and why, and why not. Nothing is stored."""
    from dicom_node.offline import explained

    explanations = explained(load_settings(config), paths, calling)
    for one in explanations:
        out.print(
            f"[bold]{one.description or one.key.series_uid}[/bold], {one.instances} instances"
        )
        out.print(f"  {one.held or one.reason}", highlight=False, markup=False)
        for answer in one.routes:
            mark = "[green]yes[/green]" if answer.miss is None else "no "
            out.print(f"  route {answer.name}: {mark} {answer.miss or ''}", highlight=False)
        for model in one.models:
            told = model.not_applicable or f"runs, results to {', '.join(model.destinations)}"
            out.print(f"  model {model.name}: {told}", highlight=False)
    if not any(one.models for one in explanations):
        raise typer.Exit(int(ExitCode.FAILED))

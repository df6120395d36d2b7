"""The command line: parses, calls, prints. Every error becomes one sentence and an exit code.

It starts quickly: what a command alone needs is imported inside it.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from dicom_node import __version__
from dicom_node.errors import ExitCode, NodeError
from dicom_node.settings import load_settings
from dicom_node.web.commands import users_app

app = typer.Typer(
    name="dicom-node",
    help="A PACS-integrated DICOM AI node: receives studies, runs MONAI models, returns SEG and SR.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
models_app = typer.Typer(help="The models that the node can run.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(users_app, name="users")

out = Console()
err = Console(stderr=True)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="TOML file; default $DICOM_NODE_CONFIG, else ./dicom-node.toml if there is one.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Run the program; end with the exit code of what went wrong, if anything did."""
    try:
        app()
    except NodeError as error:
        # Text, since a message may hold what looks like markup
        told = Text.assemble((type(error).__name__, "red"), f": {error}")
        err.print(told, soft_wrap=True)
        sys.exit(int(error.exit_code))


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        out.print(__version__, highlight=False)
        raise typer.Exit()


@app.command()
def serve(
    config: ConfigOption = None,
    role: Annotated[
        str | None,
        typer.Option(
            help="Run one role only: receive, assemble, infer, deliver or web.", show_default=False
        ),
    ] = None,
    supervised: Annotated[bool, typer.Option(hidden=True)] = False,
    listen_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the node: listener, assembler, inference worker, courier and page."""
    from dicom_node import supervisor
    from dicom_node.app import Role
    from dicom_node.observe.logging import configure

    settings = load_settings(config)
    configure(settings.log)
    if role is None:
        supervisor.serve(settings, config)
        return
    if role not in [known.value for known in Role]:
        raise typer.BadParameter(f"{role!r}; known: {', '.join(known.value for known in Role)}")
    supervisor.run_until_told(Role(role), settings, listen_fd, supervised)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where to work; made anew.")] = Path("demo"),
    dicom: Annotated[
        Path | None,
        typer.Option(help="Send these DICOM files instead of a phantom.", show_default=False),
    ] = None,
    pacs: Annotated[
        str, typer.Option(help="The PACS that receives the results: folder or orthanc.")
    ] = "folder",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the results.")] = 300.0,
) -> None:
    """Try everything: start a node and a PACS, send a study, wait for the results, show them."""
    from dicom_node.demo.run import run_demo

    if pacs not in ("folder", "orthanc"):
        raise typer.BadParameter(f"{pacs!r}; known: folder, orthanc")
    if not run_demo(folder, dicom, pacs, timeout, out):
        raise typer.Exit(int(ExitCode.FAILED))


@app.command()
def send(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files or folders.", exists=True)],
    host: Annotated[str, typer.Option(help="The receiver's host.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The receiver's port.")] = 11112,
    called: Annotated[str, typer.Option(help="The receiver's AE title.")] = "DICOM_NODE",
    calling: Annotated[str, typer.Option(help="Our AE title.")] = "DICOM_SEND",
) -> None:
    """Send DICOM files or folders to any AE by C-STORE."""
    from rich.progress import track

    from dicom_node.deliver import scu
    from dicom_node.files import dicom_files

    files = dicom_files(paths)
    if not files:
        raise typer.BadParameter("no DICOM files there")
    address = scu.Address(host, port, called, calling)
    refused = []
    answers = scu.store(address, files)
    for path, answer in track(answers, "Sending", total=len(files), console=err):
        if answer.status != 0:
            refused.append((path, answer))
    for path, answer in refused:
        status = "no context" if answer.status is None else f"{answer.status:04X}"
        err.print(f"{path}: {status} {answer.comment}", highlight=False)
    out.print(f"{len(files) - len(refused)} of {len(files)} accepted by {address}", highlight=False)
    if refused:
        raise typer.Exit(int(ExitCode.REFUSED))


@app.command()
def echo(
    host: Annotated[str, typer.Argument(help="The peer's host.")] = "127.0.0.1",
    port: Annotated[int, typer.Argument(help="The peer's port.")] = 11112,
    called: Annotated[str, typer.Option(help="The peer's AE title.")] = "DICOM_NODE",
    calling: Annotated[str, typer.Option(help="Our AE title.")] = "DICOM_ECHO",
) -> None:
    """Ask a peer whether it is there (C-ECHO)."""
    from dicom_node.deliver import scu

    address = scu.Address(host, port, called, calling)
    scu.echo(address)
    out.print(f"{address} answers", highlight=False)


@app.command()
def status(
    study: Annotated[
        str | None,
        typer.Argument(
            help="Only this Study Instance UID, with its whole story.", show_default=False
        ),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    limit: Annotated[int, typer.Option(help="The most series to show.")] = 50,
) -> None:
    """Say where every study is, and why."""
    from dicom_node import supervisor
    from dicom_node.app import opened_overview
    from dicom_node.status import print_status

    settings = load_settings(config)
    node = supervisor.running_node(settings.data_dir)
    with opened_overview(settings) as view:
        studies = view.studies(study, limit)
        story = view.story(study) if study else []
        counts = view.counts()
    if as_json:
        running = None if node is None else asdict(node)
        value = {"node": running, "counts": counts, "series": studies, "story": story}
        out.print_json(json.dumps(value, default=str))
    else:
        print_status(out, node, counts, studies, story)


@app.command(name="config")
def show_config(
    config: ConfigOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether it can be used.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the effective configuration, or check it."""
    from dicom_node.app import check as check_all
    from dicom_node.status import as_toml

    settings = load_settings(config)
    check_all(settings)
    if check:
        out.print("The configuration can be used.")
    elif as_json:
        out.print_json(settings.model_dump_json())
    else:
        out.print(as_toml(settings), highlight=False, markup=False, soft_wrap=True)


@models_app.command(name="list")
def models_list(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the models."""
    from rich.table import Table

    from dicom_node.catalogue import catalogue

    models = catalogue(load_settings(config).models_dir)
    if as_json:
        rows = [
            model.model_dump(mode="json", include={"model", "input"}) | {"digest": model.digest}
            for model in models.values()
        ]
        out.print_json(json.dumps(rows))
        return
    table = Table("Model", "Task", "Version", "Takes", "On", "Digest")
    for model in models.values():
        takes = f"{', '.join(model.input.modality)} {model.input.dimensions}D"
        enabled = "yes" if model.model.enabled else "no"
        table.add_row(
            model.name, model.model.task, model.model.version, takes, enabled, model.digest[:12]
        )
    out.print(table)


@models_app.command(name="show")
def models_show(
    name: Annotated[str, typer.Argument(help="The model's name.")], config: ConfigOption = None
) -> None:
    """Show a model's card."""
    from rich.markdown import Markdown

    from dicom_node.catalogue import catalogue

    models = catalogue(load_settings(config).models_dir)
    if name not in models:
        raise typer.BadParameter(f"{name!r}; known: {', '.join(models) or 'none'}")
    card = models[name].folder / "docs" / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else "This model has no card."
    out.print(Markdown(text))
